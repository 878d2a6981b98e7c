-- Limits that leave room: CPU up at once and down after a calm minute, memory ahead of its growth and down very slowly.
-- Instead of the default rules, for containers that should hardly ever be throttled: half of what they have stays idle.
--
-- These rules stand in the place of the default ones of the same names; drop the others, some of which lower limits, too:
--     DROP RULE cpu_headroom; DROP RULE cpu_fit; DROP RULE memory_oom_coarse; DROP RULE memory_fit; DROP RULE memory_squeeze;
--
-- The engine's guards stand behind every rule here: bounds, stale data, warm-up, cooldowns, steps, the memory floor.

-- A container that is at its limit gets half as much again each second, up to three times as much the more it is throttled;
-- one that comes near it gets its peak plus 10 %.
CREATE OR REPLACE RULE cpu_up
WITH (every = '1s', class = 'protect', cooldown_up = '1s', dead_band = 0.02)
AS
-- Formula, of the hybrid CPU policy (the windows of Autopilot, with the throttle signal of Autothrottle's Captain):
--     saturated (usage >= 0.97 limit, or throttled in more than 10 % of the periods): max((1.5 + 1.5 throttled share) limit,
--                                                                                1.10 peak of 60 s)
--     otherwise, when 1.10 peak of 60 s > 1.02 limit:                                 1.10 peak of 60 s
-- Parameters: factor 1.5 to 3 a second when saturated, headroom 1.10 over the peak, thresholds 0.97 and 0.10.
-- Usage cannot exceed the limit, so demand above it is hidden; that is why a saturated container grows by a factor. The
-- share of throttled periods tells how far: a container that is throttled in all of them wants much more than it has.
-- One that has all it may have is not asked about: the bounds would refuse the same thing each second.
WITH wanted AS (
    SELECT host, container, resource, usage, allocated, "max", coalesce(throttled_last, 0) AS throttling,
           1.10 * usage_max AS headroom,
           usage >= 0.97 * allocated OR coalesce(throttled_last, 0) > 0.10 AS saturated
    FROM recent(INTERVAL '60 seconds')
    WHERE resource = 'cpu' AND allocated > 0
)
SELECT host, container, resource,
       CASE WHEN saturated THEN greatest(headroom, (1.5 + 1.5 * throttling) * allocated) ELSE headroom END AS target,
       CASE WHEN throttling > 0.10
            THEN concat('it was throttled in ', CAST(round(100 * throttling) AS BIGINT), ' % of the last periods')
            WHEN saturated
            THEN concat('it used ', CAST(round(100 * usage / allocated) AS BIGINT), ' % of its limit')
            ELSE 'its peak of the last minute leaves less than 10 % of headroom below the limit'
       END AS reason,
       throttling
FROM wanted
WHERE (saturated OR headroom > 1.02 * allocated) AND allocated < 0.99 * coalesce(nullif("max", 0), 1e9);

-- A container that needs less than it has gives back up to half each ten seconds, never below its peak plus 10 %.
CREATE OR REPLACE RULE cpu_down
WITH (every = '10s', class = 'optimise', cooldown_down = '10s', step_down = 0.5, dead_band = 0.05)
AS
-- Formula: when 1.10 peak of 60 s < 0.95 limit, nothing was throttled for 60 s and the limit is above its lower bound:
--     max(1.10 peak of 60 s, 0.50 limit)
-- Parameters: the same headroom of 1.10 as cpu_up, so the two agree on where a limit belongs; hysteresis 0.95; half a step.
-- It is the minute of calm that makes a step safe, not its size: smaller steps only take longer to the same place. The watch
-- over decreases takes back what was too much.
-- A throttled minute is not calm, however low its average: the next burst would be throttled again.
-- It runs as seldom as it may decide, and not for a limit within 5 % of its lower bound (0.05 cores where none is set, the
-- engine's floor): each proposal is recorded, and an idle container would be refused the same thing for ever.
SELECT host, container, resource,
       greatest(1.10 * usage_max, 0.50 * allocated) AS target,
       concat('its peak of the last minute was ', CAST(round(100 * usage_max / allocated) AS BIGINT), ' % of its limit')
           AS reason
FROM recent(INTERVAL '60 seconds')
WHERE resource = 'cpu' AND allocated > 0
  AND 1.10 * usage_max < 0.95 * allocated
  AND coalesce(throttled, 0) = 0
  AND allocated > 1.05 * coalesce(nullif(min, 0), 0.05);

-- Memory grows ahead of the process: a limit that is reached kills.
CREATE OR REPLACE RULE memory_up
WITH (every = '1s', class = 'protect', cooldown_up = '1s', dead_band = 0.02)
AS
-- Formula: ahead = usage + 10 s of its growth; when ahead > upper (the limit less its margin, 10 % by default):
--     max(1.25 (usage + 20 s of its growth), 1.10 limit)
-- Parameters: looks 10 s ahead to act and 20 s ahead to provide, so a steady growth needs a change each ten seconds or so;
-- 25 % on top for growth that is not steady. Growth is the slope of the last 10 s, never taken as negative.
-- Usage is the working set: page cache that the kernel can drop does not count, nor should a limit grow for it.
WITH growing AS (
    SELECT host, container, resource, usage, allocated, upper, greatest(coalesce(usage_slope, 0), 0) AS growth
    FROM recent(INTERVAL '10 seconds')
    WHERE resource = 'memory' AND allocated > 0
)
SELECT host, container, resource,
       greatest(1.25 * (usage + 20 * growth), 1.10 * allocated) AS target,
       concat('it uses ', CAST(round(100 * usage / allocated) AS BIGINT), ' % of its limit and grows by ',
              CAST(round(growth / 1048576) AS BIGINT), ' MiB a second') AS reason,
       growth
FROM growing
WHERE usage + 10 * growth > upper;

-- After an OOM kill the limit was too low, whatever the samples say: the growth was faster than they are.
CREATE OR REPLACE RULE memory_oom
WITH (every = '1s', class = 'protect', priority = 10, cooldown_up = '60s')
AS
-- Formula, of Kubernetes' VPA: max(limit + 100 MiB, 1.20 limit), once an event.
-- Parameters: the window of 30 s is shorter than the cooldown of 60 s, so one kill raises the limit once: repeated raises
-- for one event are what drove VPA's recommendations to their maximum.
SELECT host, container, resource,
       greatest(allocated + 104857600, 1.20 * allocated) AS target,
       concat('the kernel killed ', CAST(oom_kills AS BIGINT), ' of its processes for memory in the last 30 s') AS reason,
       oom_kills
FROM recent(INTERVAL '30 seconds')
WHERE resource = 'memory' AND allocated > 0 AND oom_kills > 0;

-- Memory comes down by at most 5 % a minute, and never near what the kernel could not take back.
CREATE OR REPLACE RULE memory_down
WITH (every = '60s', class = 'optimise', cooldown_down = '60s', step_down = 0.05, dead_band = 0.03)
AS
-- Formula: want = max(1.25 peak of 5 min, 1.10 unreclaimable); when want < 0.95 limit, with at least a minute of data, no
-- OOM kill in the window and a limit more than 5 % above its lower bound (8 MiB where none is set, the engine's floor):
--     max(want, 0.95 limit)
-- Parameters: 1.25 is above the point at which memory_up acts (usage > 0.90 limit), so the two never chase each other.
-- A limit below what is not reclaimable (anonymous, shared and kernel memory) would kill at once on cgroup v2.
WITH calm AS (
    SELECT host, container, resource, allocated, usage_max, unreclaimable,
           greatest(1.25 * usage_max, 1.10 * unreclaimable) AS want
    FROM recent(INTERVAL '300 seconds')
    WHERE resource = 'memory' AND allocated > 0 AND unreclaimable IS NOT NULL
      AND samples >= 60 AND coalesce(oom_kills, 0) = 0
      AND allocated > 1.05 * coalesce(nullif(min, 0), 8388608)
)
SELECT host, container, resource,
       greatest(want, 0.95 * allocated) AS target,
       concat('its peak of the last five minutes was ', CAST(round(100 * usage_max / allocated) AS BIGINT),
              ' % of its limit') AS reason,
       want
FROM calm
WHERE want < 0.95 * allocated;
