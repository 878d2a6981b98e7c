-- Limits on what containers receive and send over the network that follow it: twice as much at once where one is at its limit,
-- down to the peak of the last minute and a third. Beside the rules for CPU and memory, of containers with a bound or a limit.
--
-- Which containers: those that an operator gave a highest bandwidth (tidegate.net_receive.max, tidegate.net_send.max), and
-- those that have a limit. Nobody else gets one: what a network can do is not known, so without a bound there is nothing to
-- begin with. With several interfaces a limit bounds each of them. Only containers with a network of their own can have any.
--
-- The engine's guards stand behind every rule here: bounds, stale data, warm-up, cooldowns, steps and the floor for networks.

-- A container with a highest bandwidth and no limit gets that for its limit.
CREATE OR REPLACE RULE network_bound
WITH (every = '5s', class = 'cap', cooldown_down = '10s', watch = '0s')
AS
-- Formula: no limit is known: limit = max
-- The kernel knows no bounds: until something is written, a container takes all that the network gives. So does one that is
-- started again, with new interfaces; usage that is measured without a limit is newer than the last limit then.
SELECT host, container, resource, "max" AS target, 'it has a highest bandwidth, and no limit yet' AS reason
FROM recent(INTERVAL '10 seconds')
WHERE resource IN ('net_receive', 'net_send') AND (allocated IS NULL OR allocated_age > age + 5) AND "max" > 0;

-- A container that is at its limit gets twice as much.
CREATE OR REPLACE RULE network_up
WITH (every = '1s', class = 'protect', cooldown_up = '2s', dead_band = 0.02)
AS
-- Formula: usage >= 0.85 limit: 2 limit
-- Parameters: threshold 0.85, since the kernel's queue counts the headers of each packet, and an interface those of a large one
-- before it is cut: of 1,514 bytes of Ethernet, TCP carries 1,448, 0.956, and less in smaller packets. Factor 2 each two seconds:
-- usage cannot exceed the limit, so demand above it is hidden, and a container that sent nothing for an hour stands at the
-- floor: a fixed step, or a small factor, would leave it there for minutes. Two seconds, since the first measurement after a
-- change is one of both limits.
SELECT host, container, resource, 2.0 * allocated AS target,
       concat('it used ', CAST(round(100 * usage / allocated) AS BIGINT), ' % of its limit') AS reason
FROM recent(INTERVAL '10 seconds')
WHERE resource IN ('net_receive', 'net_send') AND allocated > 0 AND allocated_age <= age + 5 AND usage >= 0.85 * allocated
  AND allocated < 0.99 * coalesce(nullif("max", 0), 1e18);

-- A container that used less for a minute gives back what it did not need.
CREATE OR REPLACE RULE network_fit
WITH (every = '10s', class = 'optimise', cooldown_down = '60s', watch = '0s')
AS
-- Formula: when 1.3 peak of 60 s < 0.9 limit: max(1.3 peak of 60 s, min or 128 KiB/s)
-- Parameters: headroom 1.3 over the peak, which is below the 0.85 at which network_up would take it back; hysteresis 0.9. Not
-- for a limit within 5 % of its lower bound (128 KiB/s where none is set, the engine's floor): each proposal is recorded, and
-- an idle container would be refused the same thing for ever.
SELECT host, container, resource, greatest(1.3 * usage_max, coalesce(nullif("min", 0), 131072)) AS target,
       concat('its peak of the last minute was ', CAST(round(100 * usage_max / allocated) AS BIGINT), ' % of its limit')
           AS reason
FROM recent(INTERVAL '60 seconds')
WHERE resource IN ('net_receive', 'net_send') AND allocated > 0 AND allocated_age <= age + 5 AND samples >= 30
  AND 1.3 * usage_max < 0.9 * allocated
  AND allocated > 1.05 * coalesce(nullif("min", 0), 131072);
