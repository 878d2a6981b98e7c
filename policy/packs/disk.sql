-- Limits on the bandwidth to disks that follow what containers read and write: twice as much at once where one is at its limit,
-- down to the peak of the last minute and a third. Beside the rules for CPU and memory, of containers with a bound or a limit.
--
-- Which containers: those that an operator gave a highest bandwidth (tidegate.disk_read.max, tidegate.disk_write.max), and
-- those that have a limit. Nobody else gets one: what a disk can do is not known, so without a bound there is nothing to begin
-- with. With several disks a limit bounds each of them.
-- What goes through the page cache is charged to nobody with cgroup v1, and neither measured nor limited there.
--
-- The engine's guards stand behind every rule here: bounds, stale data, warm-up, cooldowns, steps and the floor for disks.

-- A container with a highest bandwidth and no limit gets that for its limit.
CREATE OR REPLACE RULE disk_bound
WITH (every = '5s', class = 'cap', cooldown_down = '10s', watch = '0s')
AS
-- Formula: no limit is known: limit = max
-- The kernel knows no bounds: until something is written, a container takes all that the disk gives. So does one that is started
-- again, for no runtime knows of its limit; usage that is measured without a limit is newer than the last limit then.
SELECT host, container, resource, "max" AS target, 'it has a highest bandwidth, and no limit yet' AS reason
FROM recent(INTERVAL '10 seconds')
WHERE resource IN ('disk_read', 'disk_write') AND (allocated IS NULL OR allocated_age > age + 5) AND "max" > 0;

-- A container that is at its limit gets twice as much.
CREATE OR REPLACE RULE disk_up
WITH (every = '1s', class = 'protect', cooldown_up = '2s', dead_band = 0.02)
AS
-- Formula, in the place of the Serverless Containers' rules Disk_readRescaleUp and Disk_writeRescaleUp (one event of
-- usage > upper, and no more than six of usage < lower: + 450):
--     usage >= 0.95 limit: 2 limit
-- Parameters: threshold 0.95, since what is measured of a saturated container is within a few percent of its limit; factor 2
-- each two seconds. Usage cannot exceed the limit, so demand above it is hidden, and a container that copied nothing for an
-- hour stands at the floor: a fixed step, or a small factor, would leave it there for minutes. Two seconds, since the first
-- measurement after a change is one of both limits.
SELECT host, container, resource, 2.0 * allocated AS target,
       concat('it used ', CAST(round(100 * usage / allocated) AS BIGINT), ' % of its limit') AS reason
FROM recent(INTERVAL '10 seconds')
WHERE resource IN ('disk_read', 'disk_write') AND allocated > 0 AND allocated_age <= age + 5 AND usage >= 0.95 * allocated
  AND allocated < 0.99 * coalesce(nullif("max", 0), 1e18);

-- A container that used less for a minute gives back what it did not need.
CREATE OR REPLACE RULE disk_fit
WITH (every = '10s', class = 'optimise', cooldown_down = '60s', watch = '0s')
AS
-- Formula, the original's fit_to_usage (Disk_readRescaleDown, Disk_writeRescaleDown; six events of usage < lower):
--     when 1.3 peak of 60 s < 0.9 limit: max(1.3 peak of 60 s, min or 1 MiB/s)
-- Parameters: headroom 1.3 over the peak, which is below the 0.95 at which disk_up would take it back; hysteresis 0.9. Not for
-- a limit within 5 % of its lower bound (1 MiB/s where none is set, the engine's floor): each proposal is recorded, and an
-- idle container would be refused the same thing for ever.
SELECT host, container, resource, greatest(1.3 * usage_max, coalesce(nullif("min", 0), 1048576)) AS target,
       concat('its peak of the last minute was ', CAST(round(100 * usage_max / allocated) AS BIGINT), ' % of its limit')
           AS reason
FROM recent(INTERVAL '60 seconds')
WHERE resource IN ('disk_read', 'disk_write') AND allocated > 0 AND allocated_age <= age + 5 AND samples >= 30
  AND 1.3 * usage_max < 0.9 * allocated
  AND allocated > 1.05 * coalesce(nullif("min", 0), 1048576);
