-- CPU and memory limits by percentiles of a day: few changes, for steady loads and for sources that measure once a minute.
--
-- Autopilot's moving window (Rzadca et al., "Autopilot: Workload Autoscaling at Google", EuroSys 2020, 3.2) within the
-- confidence band of the Kubernetes vertical pod autoscaler (recommender/logic/recommender.go, estimator.go). Use it in place of
-- the default rules, or on the containers of a scope. A percentile knows nothing of what comes next: of memory it is the riskier
-- choice.

CREATE OR REPLACE RULE percentile_cpu
WITH (every = '10s', class = 'protect', cooldown_up = '60s', cooldown_down = '1h', step_down = 0.5, dead_band = 0.05,
      max_age = '15s', hold_max = '24h')
AS
-- Formula: want = 1.12 p95 with a half-life of 24 h; c = confidence (days of data, or samples / 1440, whatever is less).
--          limit < 1.15 p50 (1 + 0.001 / c)^-2: want; limit > 1.15 p95 (1 + 1 / c), or want more than 10 % below it an hour
--          after the last change: max(want, 0.5 limit); want more than 10 % above it: want.
--          Saturated (usage >= 0.97 limit, or throttled in more than 10 % of the periods): max(want, 1.5 limit).
-- Source: 1.12 and p95 are Autopilot's for serving jobs, though neither adjusted by load nor held for an hour; the band and the
-- confidence are VPA's. Without the growth on saturation a percentile stays below its own limit for ever, since usage
-- cannot exceed it.
WITH seen AS (
    SELECT r.host, r.container, r.resource, r.allocated, r.min, r."max", 1.12 * h.usage_p95 AS want,
           r.usage >= 0.97 * r.allocated OR coalesce(r.throttled_last, 0) > 0.10 AS saturated,
           1.15 * h.usage_p50 * power(1 + 0.001 / greatest(h.confidence, 1e-6), -2) AS lowest,
           1.15 * h.usage_p95 * (1 + 1 / greatest(h.confidence, 1e-6)) AS highest, h.confidence
    FROM recent(INTERVAL '60 seconds') AS r JOIN history(INTERVAL '24 hours') AS h USING (host, container, resource)
    WHERE r.resource = 'cpu' AND r.allocated > 0 AND r.age <= 10
)
SELECT host, container, resource,
       CASE WHEN saturated THEN greatest(want, 1.5 * allocated) ELSE greatest(want, 0.5 * allocated) END AS target,
       CASE WHEN saturated THEN 'it is at its limit'
            ELSE concat('its 95th percentile and 12 % are ', CAST(round(100 * want / allocated) AS BIGINT), ' % of its limit')
       END AS reason,
       want, confidence
FROM seen
WHERE (saturated OR allocated < lowest OR want > 1.10 * allocated) AND allocated < 0.99 * coalesce(nullif("max", 0), 1e9)
   OR NOT saturated AND (allocated > highest OR want < 0.90 * allocated) AND confidence > 0.01
      AND allocated > 1.05 * coalesce(nullif(min, 0), 0.05);

CREATE OR REPLACE RULE percentile_memory
WITH (every = '10s', class = 'protect', cooldown_up = '60s', cooldown_down = '1h', step_down = 0.2, dead_band = 0.05,
      max_age = '15s', hold_max = '24h')
AS
-- Formula: want = max(1.12 p98 with a half-life of 24 h, 1.05 usage); more than 10 % above the limit, or usage above 0.95 of it:
--          max(want, 1.15 usage); more than 10 % below it, with an hour of data: max(want, 0.8 limit).
-- Source: Autopilot's p98 for memory, of samples rather than of five-minute peaks, with half its half-life.
WITH seen AS (
    SELECT r.host, r.container, r.resource, r.usage, r.allocated, r.min, r."max", h.confidence,
           greatest(1.12 * h.usage_p98, 1.05 * r.usage) AS want
    FROM recent(INTERVAL '60 seconds') AS r JOIN history(INTERVAL '24 hours') AS h USING (host, container, resource)
    WHERE r.resource = 'memory' AND r.allocated > 0 AND r.age <= 10
)
SELECT host, container, resource,
       CASE WHEN usage > 0.95 * allocated OR want > allocated THEN greatest(want, 1.15 * usage)
            ELSE greatest(want, 0.8 * allocated) END AS target,
       concat('its 98th percentile and 12 % are ', CAST(round(100 * want / allocated) AS BIGINT), ' % of its limit') AS reason,
       want, confidence
FROM seen
WHERE (usage > 0.95 * allocated OR want > 1.10 * allocated) AND allocated < 0.99 * coalesce(nullif("max", 0), 1e18)
   OR want < 0.90 * allocated AND usage <= 0.95 * allocated AND confidence > 0.04
      AND allocated > 1.05 * coalesce(nullif(min, 0), 8388608);

CREATE OR REPLACE RULE percentile_oom
WITH (every = '1s', class = 'protect', priority = 10, cooldown_up = '60s', hold_max = '24h')
AS
-- Formula, of VPA: max(limit + 100 MiB, 1.20 limit), once an event.
SELECT host, container, resource, greatest(allocated + 104857600, 1.20 * allocated) AS target,
       'the kernel killed some of its processes for memory' AS reason
FROM recent(INTERVAL '90 seconds')
WHERE resource = 'memory' AND allocated > 0 AND oom_kills > 0;
