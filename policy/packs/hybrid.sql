-- CPU limits that follow usage: up at once, down as soon as it is safe.
--
-- Apply this file with `tidegate rule apply`, over HTTP or in the dashboard; applying it again changes nothing. No rule
-- states a mode, so new ones start in the configured one (shadow, unless changed) and existing ones keep theirs:
--     ALTER RULE cpu_up SET (mode = 'on');
-- The engine's guards stand behind every rule here: bounds, stale data, warm-up, cooldowns, steps, the memory floor.
--
-- With a sample a second it keeps 5 % above the means of seconds, and as much more as bursts within a second turn out to need.
-- For that the three rules cpu_headroom, cpu_up and cpu_down belong together: give them the same mode.
--
-- What it costs (slack, time over the limit, changes a container and day) stands in docs/rules.md.

-- How far above its mean use a container's limit has to be is learnt from its throttling.
CREATE OR REPLACE RULE cpu_headroom
WITH (every = '1s', emit = 'param')
AS
-- Formula: headroom = 1.05 + excess; with each sample
--          throttled, though the limit does not hold it:                            excess + 0.25 throttled share;
--          free within three seconds after a limit held it, using no more than that: excess + 0.25 throttled share of then;
--          not throttled, with a limit no more than a quarter above headroom x usage, and above its floor: excess - 0.005;
--          always between 0 and 3. The second in which a limit rose does not count: part of it was before.
--          A limit holds its container when usage >= 0.97 limit, or 0.80 limit and throttled in 90 % of the periods: the kernel
--          hands a quota out in slices of 5 ms, so of a small one something is left over.
-- Source: the margin of Autothrottle's Captain (Wang et al., NSDI 2024), which grows by the throttled share less the one aimed
-- at. So work that comes in bursts within a second is throttled in 0.005 / 0.25 = 2 % of its periods, whatever its bursts
-- are like, and what runs evenly keeps 5 %. Who is at his limit because he wants more than that in the mean learns nothing:
-- that is what cpu_up is for.
WITH sampled AS (
    SELECT host, container, resource, usage, allocated, min, throttled_last AS throttling, date_part('epoch', now()) - age AS at,
           usage >= CASE WHEN throttled_last >= 0.90 THEN 0.80 ELSE 0.97 END * allocated AS saturated
    FROM recent(INTERVAL '10 seconds')
    WHERE resource = 'cpu' AND allocated > 0 AND throttled_last IS NOT NULL
),
seen AS (
    SELECT r.host, r.container, r.resource, r.usage, r.allocated, r.throttling, r.saturated, r.at,
           coalesce(s.excess, 0.0) AS excess, r.allocated > 1.2 * coalesce(nullif(r.min, 0), 0.05) AS free,
           r.allocated > 1.02 * coalesce(s.allocated, r.allocated) AS risen,
           CASE WHEN r.at - s.held_at <= 3 THEN s.held END AS held, s.held_by, s.held_at,
           r.throttling > 0.10 AND r.saturated AS holds
    FROM sampled AS r LEFT JOIN state AS s USING (host, container, resource)
    WHERE s.at IS NULL OR r.at > s.at
),
judged AS (
    SELECT *, NOT holds AND throttling <= 0.10 AND coalesce(usage <= held, false) AS in_vain FROM seen
),
learnt AS (
    SELECT *, least(greatest(excess + CASE
               WHEN in_vain THEN 0.25 * held_by
               WHEN throttling > 0 THEN CASE WHEN NOT risen AND NOT saturated THEN 0.25 * throttling ELSE 0 END
               WHEN free AND allocated <= 1.25 * (1.05 + excess) * usage THEN -0.005
               ELSE 0 END, 0.0), 3.0) AS learns
    FROM judged
)
SELECT host, container, resource, CASE WHEN learns > 0 OR excess > 0 THEN 'headroom' END AS name, 1.05 + learns AS value,
       learns AS excess, at, allocated,
       CASE WHEN holds THEN allocated WHEN NOT in_vain THEN held END AS held,
       CASE WHEN holds THEN throttling ELSE held_by END AS held_by,
       CASE WHEN holds THEN at ELSE held_at END AS held_at
FROM learnt;

-- A container that is at its limit gets more at once, and as much as there is when the limit held it all the time.
CREATE OR REPLACE RULE cpu_up
WITH (every = '1s', class = 'protect', cooldown_up = '1s', dead_band = 0.02, hold_max = '1h')
AS
-- Formula: saturated (the limit holds it, as in cpu_headroom): (1.7 + 1.7 throttled share) limit,
--          and with samples each few seconds, when throttled in 90 % of the periods or more: the upper bound, or 3 limit;
--          throttled in more than 10 % of the periods at less use: (1 + throttled share) limit;
--          otherwise, with samples each few seconds, when headroom usage > 1.02 limit: headroom usage.
-- Source: growth on saturation as in the hybrid law of peaks and percentiles, with the throttle signal of Autothrottle's
-- Captain (Wang et al., NSDI 2024). Usage cannot exceed the limit, so demand above it is hidden; the share of throttled periods
-- tells how far it is. A container that is throttled in all of them wants nobody knows how much: it gets all it may have, and
-- cpu_down takes back what it does not use three seconds later. In small steps it would starve for as many seconds.
-- One that has all it may have is not asked about: the bounds would refuse the same thing each second.
WITH seen AS (
    SELECT r.host, r.container, r.resource, r.usage, r.allocated, r."max", coalesce(r.throttled_last, 0) AS throttling,
           coalesce(r.throttled_last, 0) > 0.10 AS throttled,
           r.usage >= CASE WHEN r.throttled_last >= 0.90 THEN 0.80 ELSE 0.97 END * r.allocated AS saturated,
           r.samples >= 3 AS fine, coalesce(p.value, 1.05) AS headroom
    FROM recent(INTERVAL '10 seconds') AS r
    LEFT JOIN (SELECT host, container, resource, value FROM params WHERE rule = 'cpu_headroom') AS p
        USING (host, container, resource)
    WHERE r.resource = 'cpu' AND r.allocated > 0
)
SELECT host, container, resource,
       CASE WHEN saturated AND fine AND throttling >= 0.90
            THEN coalesce(nullif("max", 0), 3 * allocated)
            WHEN saturated THEN (1.7 + 1.7 * throttling) * allocated
            WHEN throttled THEN (1 + throttling) * allocated
            ELSE headroom * usage
       END AS target,
       CASE WHEN throttled
            THEN concat('it was throttled in ', CAST(round(100 * throttling) AS BIGINT), ' % of the last periods')
            WHEN saturated
            THEN concat('it used ', CAST(round(100 * usage / allocated) AS BIGINT), ' % of its limit')
            ELSE concat('its usage leaves less than ', CAST(round(100 * (headroom - 1)) AS BIGINT),
                        ' % of headroom below the limit')
       END AS reason,
       throttling, headroom
FROM seen
WHERE (saturated OR throttled OR (fine AND headroom * usage > 1.02 * allocated))
  AND allocated < 0.99 * coalesce(nullif("max", 0), 1e9);

-- With samples each few seconds a container keeps its headroom above what it lately needed.
CREATE OR REPLACE RULE cpu_down
WITH (every = '1s', class = 'optimise', cooldown_down = '1s', step_down = 0.9, dead_band = 0.02, warm_up = '3s', watch = '0s')
AS
-- Formula: need = peak of 3 s, or of 60 s when it was throttled in more than 5 % of that minute's periods;
--          when it was not throttled in the last second, the limit is more than a fifth above its lower bound and
--          headroom need < (1 - h) limit, with h = headroom - 1 or 0.15, whatever is less: headroom need.
-- Parameters: cpu_up makes good an error within a second or two, so no more history than that is needed. Who is throttled for
-- three seconds of a minute or more keeps what the minute needed. Hysteresis: a change is worth about twice the headroom, so
-- that limits of bursty work are not moved by its noise.
-- The engine watches none of these decreases: in a container whose load comes and goes one is never long ago, so each new
-- demand would count as a decrease gone wrong, and the circuit breaker would leave limits that only grow. cpu_up gives back a
-- second later what was too little, and cpu_headroom remembers it.
-- Not for a limit near its lower bound (0.05 cores where none is set, the engine's floor): there is nothing to gain, and an
-- idle container that begins to work would count as a decrease gone wrong.
WITH needed AS (
    SELECT s.host, s.container, s.resource, s.allocated, s.min, coalesce(p.value, 1.05) AS headroom,
           CASE WHEN m.throttled > 0.05 THEN m.usage_max ELSE s.usage_max END AS need,
           CASE WHEN m.throttled > 0.05 THEN 60 ELSE 3 END AS seconds
    FROM recent(INTERVAL '3 seconds') AS s JOIN recent(INTERVAL '60 seconds') AS m USING (host, container, resource)
    LEFT JOIN (SELECT host, container, resource, value FROM params WHERE rule = 'cpu_headroom') AS p
        USING (host, container, resource)
    WHERE s.resource = 'cpu' AND s.allocated > 0 AND s.samples >= 3 AND coalesce(s.throttled_last, 0) = 0
)
SELECT host, container, resource, greatest(headroom * need, coalesce(nullif(min, 0), 0.05)) AS target,
       concat('its peak of the last ', seconds, ' s was ', CAST(round(100 * need / allocated) AS BIGINT), ' % of its limit, and ',
              CAST(round(100 * (headroom - 1)) AS BIGINT), ' % above that are left') AS reason,
       need, headroom
FROM needed
WHERE headroom * need < greatest(2 - headroom, 0.85) * allocated AND allocated > 1.2 * coalesce(nullif(min, 0), 0.05);

-- With samples further apart a limit is what the last hours needed, and no less than most of what the day did.
CREATE OR REPLACE RULE cpu_fit
WITH (every = '10s', class = 'protect', cooldown_down = '5m', step_down = 0.7, dead_band = 0.02, max_age = '15s', hold_max = '1h')
AS
-- Formula: want = headroom / 1.05 x max(1.06 peak of 2 h, 0.92 p98, p95), percentiles and mean with a half-life of 24 h;
--          want > 1.03 limit: want; not saturated, five minutes after the last change, and want < 0.4 limit or
--          mean / want > mean / limit + 0.045: max(want, 0.3 limit).
-- Source: the hybrid law (max of 1.10 peak of 60 s, 1.05 peak of 30 min, 1.05 p98 with a half-life of 12 h; down 5 % a minute,
-- once want < 0.95 limit). Its factor for the peak stands, here over two hours, so what has just been needed does not lean on the
-- percentiles, and these may come without a factor: they are up to 5 % too high as they are.
-- Hysteresis: a limit comes down when 4.5 points more of it would be used in the mean. So one that is mostly used follows within
-- 6 %, and one that idles between bursts waits for the next of them: lowering it would save next to nothing and throttle that
-- one. What is beyond two and a half times of what is wanted goes in any case.
-- It acts once a sample, within 10 s. What it holds comes from a day of history, so a gap of hours changes nothing about it.
-- Two hours of samples are read where somebody is coarse, and not where all have a sample a second.
WITH coarse AS (
    SELECT host, container, resource FROM recent(INTERVAL '300 seconds')
    WHERE resource = 'cpu' AND allocated > 0 AND age <= 10 AND samples < 100
),
known AS (
    SELECT r.* FROM coarse JOIN recent(INTERVAL '2 hours') AS r USING (host, container, resource)
),
seen AS (
    SELECT r.host, r.container, r.resource, r.usage, r.allocated, r.min, r."max", h.usage_avg AS mean,
           r.usage >= 0.97 * r.allocated OR coalesce(r.throttled_last, 0) > 0.10 AS saturated,
           coalesce(p.value, 1.05) / 1.05 * greatest(1.06 * r.usage_max, 0.92 * h.usage_p98, h.usage_p95) AS want
    FROM known AS r
    JOIN history(INTERVAL '24 hours') AS h USING (host, container, resource)
    LEFT JOIN recent(INTERVAL '10 seconds') AS n USING (host, container, resource)
    LEFT JOIN params AS p ON p.host = r.host AND p.container = r.container AND p.resource = r.resource
        AND p.rule = 'cpu_headroom'
    WHERE coalesce(n.samples, 0) < 3
)
SELECT host, container, resource, greatest(want, 0.3 * allocated) AS target,
       concat('its history asks for ', CAST(round(100 * want / allocated) AS BIGINT), ' % of its limit') AS reason,
       want, mean
FROM seen
WHERE want > 1.03 * allocated AND allocated < 0.99 * coalesce(nullif("max", 0), 1e9)
   OR (want < 0.4 * allocated OR mean / want > mean / allocated + 0.045) AND NOT saturated
      AND allocated > 1.02 * coalesce(nullif(min, 0), 0.05);
