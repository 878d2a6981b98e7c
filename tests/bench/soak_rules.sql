-- Rules that look at the whole fleet every second and propose little: a soak tests their evaluation, not the journal.

CREATE OR REPLACE RULE soak_cpu_peak WITH (every = '1s', mode = 'shadow') AS
SELECT host, container, resource, 1.1 * usage_max AS target, 'its peak of a minute' AS reason
FROM recent(INTERVAL '60 seconds')
WHERE resource = 'cpu' AND usage_p95 > 4.2;

CREATE OR REPLACE RULE soak_memory_growth WITH (every = '1s', mode = 'shadow') AS
SELECT host, container, resource, usage_max + 20 * usage_slope AS target, 'it grows' AS reason
FROM recent(INTERVAL '10 seconds')
WHERE resource = 'memory' AND usage_slope > 16777216;

CREATE OR REPLACE RULE soak_cpu_average WITH (every = '1s', mode = 'shadow') AS
SELECT host, container, 'cpu' AS resource, 0.0125 * avg(value) AS target, 'its average of a minute' AS reason
FROM metric.cpu_user
WHERE time > now() - INTERVAL '60 seconds'
GROUP BY host, container
HAVING avg(value) > 399;
