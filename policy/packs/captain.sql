-- CPU limits by throttling alone: for services that may be throttled a little, in exchange for tight limits.
--
-- Captain, the fast half of Autothrottle (Wang et al., "Autothrottle: A Practical Bi-Level Approach to Resource Management for
-- SLO-Targeted Microservices", NSDI 2024). Needs samples each second or so; CPU only. Use it in place of the rules cpu_up and
-- cpu_down, or on the containers of a scope.

CREATE OR REPLACE RULE captain_up
WITH (every = '1s', class = 'protect', cooldown_up = '1s', dead_band = 0.02)
AS
-- Formula: r = share of the periods of the last second that were throttled; r > 3 t: (1 + r - 3 t) limit.
-- Parameters: t = 0.03, the share of throttled periods that is aimed at. Autothrottle's slow half moves it by the service's
-- latency: lower it when that is too high.
-- Throttling adds at most 0.91 of the limit a second, so a large step of demand takes some seconds.
SELECT host, container, resource, (1 + throttled_last - 3 * 0.03) * allocated AS target,
       concat('it was throttled in ', CAST(round(100 * throttled_last) AS BIGINT), ' % of the last periods, aimed at are 3 %')
           AS reason,
       throttled_last AS throttling
FROM recent(INTERVAL '10 seconds')
WHERE resource = 'cpu' AND allocated > 0 AND throttled_last > 3 * 0.03
  AND allocated < 0.99 * coalesce(nullif("max", 0), 1e9);

CREATE OR REPLACE RULE captain_down
WITH (every = '1s', class = 'optimise', cooldown_down = '10s', step_down = 0.5, dead_band = 0.05, watch = '10s')
AS
-- Formula: want = peak of 50 s + m standard deviations of 50 s; r <= 3 t and want <= 0.9 limit: max(want, 0.5 limit).
--          m = max(0, 3 + 60 (mean r of 60 s - t)).
-- Captain adds r - t to m each second, for ever. Here the last minute counts, since a rule knows no more than its window: who is
-- throttled less than aimed at gives up his margin, down to 1.2 deviations, and who is throttled more gets more of it.
-- Captain undoes a decrease at once that led to throttling; the engine's watch does that here, and backs off.
-- t = 0.03 as above. Starting margin 3, factor 0.9 and step 0.5 are those of the paper.
WITH seen AS (
    SELECT s.host, s.container, s.resource, s.allocated, s.min, coalesce(s.throttled_last, 0) AS throttling,
           s.usage_max + greatest(0, 3 + 60 * (coalesce(m.throttled, 0) - 0.03)) * coalesce(s.usage_stddev, 0) AS want
    FROM recent(INTERVAL '50 seconds') AS s JOIN recent(INTERVAL '60 seconds') AS m USING (host, container, resource)
    WHERE s.resource = 'cpu' AND s.allocated > 0 AND s.samples >= 10
)
SELECT host, container, resource, greatest(want, 0.5 * allocated) AS target,
       concat('its peak of 50 s and a margin are ', CAST(round(100 * want / allocated) AS BIGINT), ' % of its limit') AS reason,
       want
FROM seen
WHERE throttling <= 3 * 0.03 AND want <= 0.9 * allocated AND allocated > 1.05 * coalesce(nullif(min, 0), 0.05);
