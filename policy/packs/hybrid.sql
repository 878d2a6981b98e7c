-- CPU limits that follow usage: up at once, down as soon as it is safe. Instead of the default rules.
--
-- With a sample a second it keeps 5 % above the means of seconds. Work that comes in bursts within a second is throttled by
-- that, and then rules and watch pull against one another: try it in shadow and look at `pressure` first.
--
-- What it costs (slack, samples over the limit, changes a container and day) stands in docs/rules.md.

-- A container that is at its limit gets more at once, and as much as it may have when the limit held it all the time.
CREATE OR REPLACE RULE cpu_up
WITH (every = '1s', class = 'protect', cooldown_up = '1s', dead_band = 0.02, hold_max = '24h')
AS
-- Formula: saturated (usage >= 0.97 limit, or throttled in more than 10 % of the periods): (1.7 + 1.7 throttled share) limit,
--          and with samples each few seconds, when throttled in 90 % of the periods or more: the upper bound, or 3 limit;
--          otherwise, with samples each few seconds, when 1.05 usage > 1.02 limit: 1.05 usage.
-- Source: growth on saturation as in the hybrid law of peaks and percentiles, with the throttle signal of Autothrottle's
-- Captain (Wang et al., NSDI 2024). Usage cannot exceed the limit, so demand above it is hidden; the share of throttled periods
-- tells how far it is. A container that is throttled in all of them wants nobody knows how much: it gets all it may have, and
-- cpu_down takes back what it does not use three seconds later. In small steps it would starve for as many seconds.
-- One that has all it may have is not asked about: the bounds would refuse the same thing each second.
WITH seen AS (
    SELECT host, container, resource, usage, allocated, "max", coalesce(throttled_last, 0) AS throttling,
           usage >= 0.97 * allocated OR coalesce(throttled_last, 0) > 0.10 AS saturated,
           samples >= 3 AS fine
    FROM recent(INTERVAL '10 seconds')
    WHERE resource = 'cpu' AND allocated > 0
)
SELECT host, container, resource,
       CASE WHEN NOT saturated THEN 1.05 * usage
            WHEN fine AND throttling >= 0.90 THEN coalesce(nullif("max", 0), 3 * allocated)
            ELSE (1.7 + 1.7 * throttling) * allocated
       END AS target,
       CASE WHEN throttling > 0.10
            THEN concat('it was throttled in ', CAST(round(100 * throttling) AS BIGINT), ' % of the last periods')
            WHEN saturated
            THEN concat('it used ', CAST(round(100 * usage / allocated) AS BIGINT), ' % of its limit')
            ELSE 'its usage leaves less than 5 % of headroom below the limit'
       END AS reason,
       throttling
FROM seen
WHERE (saturated OR (fine AND 1.05 * usage > 1.02 * allocated))
  AND allocated < 0.99 * coalesce(nullif("max", 0), 1e9);

-- With samples each few seconds a container keeps 5 % above what it lately needed.
CREATE OR REPLACE RULE cpu_down
WITH (every = '1s', class = 'optimise', cooldown_down = '1s', step_down = 0.9, dead_band = 0.02, warm_up = '3s', watch = '5s')
AS
-- Formula: need = peak of 3 s, or of 60 s when it was throttled in more than 5 % of that minute's periods;
--          when 1.05 need < 0.95 limit and the limit is above its lower bound: 1.05 need.
-- Parameters: cpu_up makes good an error within a second or two, so no more history than that is needed. Who is throttled for
-- three seconds of a minute or more is bursty, and keeps what its bursts need. Hysteresis 0.95: a change is worth 10 %.
-- A decrease is watched for 5 s: what happens later is no consequence of it, but new demand, which is what cpu_up is for.
-- Not for a limit within 2 % of its lower bound (0.05 cores where none is set, the engine's floor): each proposal is
-- recorded, and an idle container would be refused the same thing for ever.
WITH needed AS (
    SELECT s.host, s.container, s.resource, s.allocated, s.min,
           CASE WHEN m.throttled > 0.05 THEN m.usage_max ELSE s.usage_max END AS need,
           CASE WHEN m.throttled > 0.05 THEN 60 ELSE 3 END AS seconds
    FROM recent(INTERVAL '3 seconds') AS s JOIN recent(INTERVAL '60 seconds') AS m USING (host, container, resource)
    WHERE s.resource = 'cpu' AND s.allocated > 0 AND s.samples >= 3
)
SELECT host, container, resource, greatest(1.05 * need, coalesce(nullif(min, 0), 0.05)) AS target,
       concat('its peak of the last ', seconds, ' s was ', CAST(round(100 * need / allocated) AS BIGINT), ' % of its limit')
           AS reason,
       need
FROM needed
WHERE 1.05 * need < 0.95 * allocated AND allocated > 1.02 * coalesce(nullif(min, 0), 0.05);

-- With samples further apart a limit fits when what the history asks for is between 84 and 102 % of it.
CREATE OR REPLACE RULE cpu_fit
WITH (every = '10s', class = 'protect', cooldown_down = '5m', step_down = 0.6, dead_band = 0.02, max_age = '15s', hold_max = '24h')
AS
-- Formula: want = max(1.05 usage, 0.95 peak of 10 min, 1.03 p98 with a half-life of 24 h);
--          want > 1.02 limit: want; want < 0.84 limit, not saturated, five minutes after the last change:
--          max(want, 0.4 limit).
-- Source: the hybrid law (max of 1.10 peak of 60 s, 1.05 peak of 30 min, 1.05 p98 with a half-life of 12 h; down 5 % a minute,
-- once want < 0.95 limit). This one takes its headroom from the hysteresis rather than from factors: a limit stays where the
-- last burst left it, until a sixth of it is idle. That takes a quarter of the changes for as much slack.
-- It acts once a sample, within 10 s. What it holds comes from a day of history, so a gap of hours changes nothing about it.
WITH seen AS (
    SELECT r.host, r.container, r.resource, r.usage, r.allocated, r.min, r."max",
           r.usage >= 0.97 * r.allocated OR coalesce(r.throttled_last, 0) > 0.10 AS saturated,
           greatest(1.05 * r.usage, 0.95 * r.usage_max, 1.03 * h.usage_p98) AS want
    FROM recent(INTERVAL '10 minutes') AS r
    JOIN history(INTERVAL '24 hours') AS h USING (host, container, resource)
    LEFT JOIN recent(INTERVAL '10 seconds') AS n USING (host, container, resource)
    WHERE r.resource = 'cpu' AND r.allocated > 0 AND r.age <= 10 AND coalesce(n.samples, 0) < 3
)
SELECT host, container, resource, greatest(want, 0.4 * allocated) AS target,
       concat('its history asks for ', CAST(round(100 * want / allocated) AS BIGINT), ' % of its limit') AS reason,
       want
FROM seen
WHERE want > 1.02 * allocated AND allocated < 0.99 * coalesce(nullif("max", 0), 1e9)
   OR want < 0.84 * allocated AND NOT saturated AND allocated > 1.02 * coalesce(nullif(min, 0), 0.05);
