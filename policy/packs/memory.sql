-- Memory limits: ahead of growth, down slowly, and quickly only where the kernel can take back what is above.
--
-- A memory limit that is reached kills, unless what is above it can be reclaimed. So what counts is how much of its memory a
-- container holds for good: anonymous, shared and kernel memory, `unreclaimable`. With cgroup v2 the quick part goes by
-- `memory.high`, which reclaims and slows down but never kills, and the hard limit (`memory.max`) follows long history. With v1,
-- whose soft limit does nothing until the host itself is short, all there is is the hard limit.

-- Memory grows ahead of the process.
CREATE OR REPLACE RULE memory_up
WITH (every = '1s', class = 'protect', cooldown_up = '1s', dead_band = 0.02, hold_max = '1h')
AS
-- Formula: ahead = usage + 10 s of its growth; when ahead > 0.87 limit: max(1.35 (usage + 20 s of its growth), 1.10 limit).
--          Of a container most of whose memory can be reclaimed: usage >= 0.97 limit: the upper bound, or 2 limit;
--          1.05 usage > 1.02 limit: 1.05 usage.
-- Parameters: looks 10 s ahead to act and 20 s ahead to provide, so a steady growth needs a change each ten seconds or so;
-- 35 % on top for growth that is not steady. Growth is the slope of the last 10 s, never taken as negative; with samples
-- further apart there is none, and the 35 % are all there is until the next one.
-- Usage is the working set: page cache that the kernel can drop does not count, nor should a limit grow for it.
WITH growing AS (
    SELECT host, container, resource, usage, allocated, "max", greatest(coalesce(usage_slope, 0), 0) AS growth,
           coalesce(unreclaimable, usage) < 0.5 * usage AS mostly_cache
    FROM recent(INTERVAL '10 seconds')
    WHERE resource = 'memory' AND allocated > 0
)
SELECT host, container, resource,
       CASE WHEN NOT mostly_cache THEN greatest(1.35 * (usage + 20 * growth), 1.10 * allocated)
            WHEN usage >= 0.97 * allocated THEN coalesce(nullif("max", 0), 2 * allocated)
            ELSE 1.05 * usage
       END AS target,
       concat('it uses ', CAST(round(100 * usage / allocated) AS BIGINT), ' % of its limit and grows by ',
              CAST(round(growth / 1048576) AS BIGINT), ' MiB a second') AS reason,
       growth
FROM growing
WHERE CASE WHEN mostly_cache THEN 1.05 * usage > 1.02 * allocated ELSE usage + 10 * growth > 0.87 * allocated END
  AND allocated < 0.99 * coalesce(nullif("max", 0), 1e18);

-- After an OOM kill the limit was too low, whatever the samples say: the growth was faster than they are.
CREATE OR REPLACE RULE memory_oom
WITH (every = '1s', class = 'protect', priority = 10, cooldown_up = '60s', hold_max = '1h')
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

-- The same with samples further apart: a kill lies between the last two of them.
CREATE OR REPLACE RULE memory_oom_coarse
WITH (every = '10s', class = 'protect', priority = 10, cooldown_up = '60s', max_age = '15s', hold_max = '1h')
AS
-- The window is the shorter one of 90 and 450 s that has two samples: 60 s or 300 s apart. It acts within 10 s of a sample, so
-- once on each.
SELECT s.host, s.container, s.resource,
       greatest(s.allocated + 104857600, 1.20 * s.allocated) AS target,
       'the kernel killed some of its processes for memory before the last sample' AS reason
FROM recent(INTERVAL '90 seconds') AS s
JOIN recent(INTERVAL '450 seconds') AS l USING (host, container, resource)
LEFT JOIN recent(INTERVAL '10 seconds') AS n USING (host, container, resource)
WHERE s.resource = 'memory' AND s.allocated > 0 AND s.age <= 10 AND coalesce(n.samples, 0) < 3
  AND CASE WHEN s.samples >= 2 THEN s.oom_kills ELSE l.oom_kills END > 0;

-- With samples each second memory comes down by at most 5 % a minute, and never near what the kernel could not take back.
CREATE OR REPLACE RULE memory_down
WITH (every = '60s', class = 'optimise', cooldown_down = '60s', step_down = 0.05, dead_band = 0.03)
AS
-- Formula: want = max(1.25 peak of 5 min, 1.10 unreclaimable, 1.10 peak with a half-life of 24 h); when want < 0.95 limit, with
--          at least a minute of data, no OOM kill in the window and a limit more than 5 % above its lower bound (8 MiB where
--          none is set, the engine's floor): max(want, 0.95 limit).
-- Parameters: 1.25 is above the point at which memory_up acts (usage > 0.87 limit), so the two never chase each other.
-- What a container has needed it may need again at once, so its peak counts for a day: 1.10 of it, less as it grows old.
-- A limit below what is not reclaimable (anonymous, shared and kernel memory) would kill at once on cgroup v2.
WITH calm AS (
    SELECT r.host, r.container, r.resource, r.allocated, r.usage_max,
           greatest(1.25 * r.usage_max, 1.10 * r.unreclaimable, 1.10 * h.usage_peak) AS want
    FROM recent(INTERVAL '300 seconds') AS r JOIN history(INTERVAL '24 hours') AS h USING (host, container, resource)
    WHERE r.resource = 'memory' AND r.allocated > 0 AND r.unreclaimable IS NOT NULL
      AND r.samples >= 60 AND coalesce(r.oom_kills, 0) = 0
      AND r.allocated > 1.05 * coalesce(nullif(r.min, 0), 8388608)
)
SELECT host, container, resource,
       greatest(want, 0.95 * allocated) AS target,
       concat('its peak of the last five minutes was ', CAST(round(100 * usage_max / allocated) AS BIGINT),
              ' % of its limit') AS reason,
       want
FROM calm
WHERE want < 0.95 * allocated;

-- Where memory.high made tasks wait is remembered, so that nobody is squeezed to there again and again.
CREATE OR REPLACE RULE memory_edge
WITH (every = '1s', emit = 'param', scope = 'cgroup = v2')
AS
-- Formula: when tasks waited for memory in 1 % of the last 2 s, and usage < 0.9 high: half way from memory.high to the limit.
-- Parameters: who needs more than before reaches memory.high, which memory_release sees; who waits below it waits for cache. A
-- kernel that keeps its pages in generations counts page cache that is read all the time as inactive, and not as part of the
-- working set, until something of it is reclaimed. So usage does not tell how much of it is needed, and where memory.high is too
-- low it may be so by far: half way to the limit finds what is enough in a step or two.
SELECT host, container, resource, 'edge' AS name, 0.5 * (high + allocated) AS value
FROM recent(INTERVAL '2 seconds')
WHERE resource = 'memory' AND high < 0.99 * allocated AND pressure >= 0.01 AND usage < 0.9 * high;

-- Where most of it can be reclaimed, memory.high follows usage as the limit of CPU does: too low a one costs reads, not the process.
CREATE OR REPLACE RULE memory_squeeze
WITH (every = '1s', class = 'optimise', scope = 'cgroup = v2', cooldown_down = '1s', step_down = 0.9, dead_band = 0.02,
      warm_up = '5s', watch = '5s')
AS
-- Formula: want = max(1.03 peak of 2 s, peak + 64 MiB, 1.2 unreclaimable, memory_edge of the last hour); when less than half of
--          the usage cannot be reclaimed, tasks waited for memory in less than 1 % of the time and want < 0.97 high, which is the
--          limit where there is none: want.
-- Source: TMO and Senpai (Weiner et al., ASPLOS 2022), which squeeze as long as pressure stays low. They creep by a share of the
--          usage each few seconds; as nothing is killed here, it goes to what was used at once, memory_release gives back as
--          quickly, and memory_edge remembers.
-- Parameters: as cpu_down, but for two seconds of calm. The working set does not count page cache on the inactive list, so that
--          goes first; 64 MiB are for what is read ahead and written behind. Processes take most while they start, hence the
--          warm-up.
WITH cached AS (
    SELECT r.host, r.container, r.usage_max, least(r.allocated, coalesce(r.high, r.allocated)) AS high,
           greatest(1.03 * r.usage_max, 1.2 * r.unreclaimable, r.usage_max + 67108864, e.value) AS want
    FROM recent(INTERVAL '2 seconds') AS r
    LEFT JOIN (SELECT host, container, resource, value FROM params
               WHERE rule = 'memory_edge' AND time > now() - INTERVAL '1 hour') AS e USING (host, container, resource)
    WHERE r.resource = 'memory' AND r.allocated > 0 AND r.samples >= 2 AND r.unreclaimable < 0.5 * r.usage
      AND coalesce(r.oom_kills, 0) = 0 AND coalesce(r.pressure, 0) < 0.01
)
SELECT host, container, 'memory.high' AS resource, want AS target,
       concat('it uses ', CAST(round(100 * usage_max / high) AS BIGINT), ' % of what it may, most of which can be reclaimed') AS reason,
       want
FROM cached
WHERE want < 0.97 * high;

-- What needs more than memory.high gets it at once.
CREATE OR REPLACE RULE memory_release
WITH (every = '1s', class = 'protect', scope = 'cgroup = v2', cooldown_up = '1s', dead_band = 0, hold_max = '1h')
AS
-- Formula: usage >= 0.99 high, tasks that waited for memory in 1 % of the last 2 s, or half of the usage that cannot be
--          reclaimed: the limit, which takes memory.high away.
-- Parameters: 0.99 is between 1 and 1 / 1.03, at which memory_squeeze leaves it, so the two do not chase each other.
SELECT r.host, r.container, 'memory.high' AS resource, r.allocated AS target,
       CASE WHEN s.pressure >= 0.01
            THEN concat('its tasks waited for memory in ', CAST(round(100 * s.pressure) AS BIGINT), ' % of the last 2 s')
            ELSE concat('it uses ', CAST(round(100 * r.usage / r.high) AS BIGINT), ' % of memory.high')
       END AS reason
FROM recent(INTERVAL '10 seconds') AS r LEFT JOIN recent(INTERVAL '2 seconds') AS s USING (host, container, resource)
WHERE r.resource = 'memory' AND r.high < 0.99 * r.allocated
  AND (r.usage >= 0.99 * r.high OR coalesce(s.pressure, 0) >= 0.01 OR r.unreclaimable >= 0.5 * r.usage);

-- The same with the hard limit, which kills when it is too low.
CREATE OR REPLACE RULE memory_squeeze_v1
WITH (every = '1s', class = 'optimise', scope = 'cgroup = v1', cooldown_down = '1s', step_down = 0.9, dead_band = 0.02,
      warm_up = '5s', watch = '5s')
AS
-- Formula: want = max(1.03 peak of 2 s, 1.5 unreclaimable, unreclaimable + 256 MiB); when less than half of the usage cannot be
--          reclaimed and want < 0.97 limit: want.
-- Parameters: as cpu_down, but for two seconds of calm. Before a kill all of the cache would have to go and the room above it be
-- filled, and memory_up acts
-- when half of that is gone. It does so within two seconds, so 256 MiB are what a process may take at once, as a database does
-- that fills its buffers with the first questions; who has a smaller limit is left to memory_down. Processes take most
-- while they start, hence the warm-up.
WITH cached AS (
    SELECT host, container, resource, usage_max, allocated, min, unreclaimable,
           greatest(1.03 * usage_max, 1.5 * unreclaimable, unreclaimable + 268435456) AS want
    FROM recent(INTERVAL '2 seconds')
    WHERE resource = 'memory' AND allocated > 0 AND samples >= 2 AND unreclaimable < 0.5 * usage AND coalesce(oom_kills, 0) = 0
)
SELECT host, container, resource, want AS target,
       concat('it uses ', CAST(round(100 * usage_max / allocated) AS BIGINT), ' % of its limit, most of which can be reclaimed')
           AS reason,
       want
FROM cached
WHERE want < 0.97 * allocated AND allocated > 1.02 * coalesce(nullif(min, 0), 8388608);

-- With samples further apart a limit comes from a day of history.
CREATE OR REPLACE RULE memory_fit
WITH (every = '10s', class = 'optimise', cooldown_down = '30m', step_down = 0.3, dead_band = 0.02, max_age = '15s', hold_max = '1h')
AS
-- Formula: want = max(1.12 usage, 1.10 unreclaimable, 1.16 p98 with a half-life of 24 h); when want < 0.98 limit, in no
--          container's first two hours, half an hour after the last change and with no OOM kill in the last hour:
--          max(want, 0.7 limit).
-- Source: the hard limit out of long history (max of 1.15 p98 with a half-life of 48 h, 1.10 peak of 24 h; down 1 % a minute
-- after an hour). Room for growth comes from memory_up, which gives 35 % to whoever needs more than 87 % of his limit, rather
-- than from a peak that all others keep for a day.
-- An hour of samples is read where somebody is coarse, and not where all have a sample a second.
WITH coarse AS (
    SELECT host, container, resource FROM recent(INTERVAL '300 seconds')
    WHERE resource = 'memory' AND allocated > 0 AND age <= 10 AND samples < 100
),
known AS (
    SELECT r.* FROM coarse JOIN recent(INTERVAL '1 hour') AS r USING (host, container, resource)
),
seen AS (
    SELECT r.host, r.container, r.resource, r.allocated, r.min,
           greatest(1.12 * r.usage, 1.10 * r.unreclaimable, 1.16 * h.usage_p98) AS want
    FROM known AS r
    JOIN history(INTERVAL '24 hours') AS h USING (host, container, resource)
    LEFT JOIN recent(INTERVAL '10 seconds') AS n USING (host, container, resource)
    WHERE coalesce(n.samples, 0) < 3 AND r.unreclaimable IS NOT NULL AND coalesce(r.oom_kills, 0) = 0
      AND h.first_seen < now() - INTERVAL '2 hours'
)
SELECT host, container, resource, greatest(want, 0.7 * allocated) AS target,
       concat('its history asks for ', CAST(round(100 * want / allocated) AS BIGINT), ' % of its limit') AS reason,
       want
FROM seen
WHERE want < 0.98 * allocated AND allocated > 1.05 * coalesce(nullif(min, 0), 8388608);
