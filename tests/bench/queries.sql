-- The six questions as Tidegate is asked them; queries.py runs them. A line `-- Q1` begins the text of Q1.
-- {container} is the name of one container, {containers} a quoted list of eight. now() is given with the request.

-- Q1
SELECT container, value FROM last('cpu_user', INTERVAL '5 minutes')

-- Q2
SELECT container, avg(value) AS value
FROM metric.cpu_user
WHERE time > now() - INTERVAL '60 seconds'
GROUP BY container

-- Q3
WITH used AS (
    SELECT container, avg(value) AS value FROM metric.cpu_user
    WHERE time > now() - INTERVAL '5 minutes' GROUP BY container
)
SELECT container, used.value
FROM used JOIN last('cpu_limit', INTERVAL '5 minutes') AS allowed USING (container)
WHERE used.value > 0.8 * allowed.value

-- Q4
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY value) AS value
FROM metric.cpu_user
WHERE container = '{container}' AND time > now() - INTERVAL '1 hour'

-- Q5
SELECT date_bin(INTERVAL '1 minute', time) AS minute, max(value) AS value
FROM metric.cpu_user
WHERE container IN ({containers}) AND time > now() - INTERVAL '12 hours'
GROUP BY minute ORDER BY minute

-- Q6
SELECT metric, date_bin(INTERVAL '1 minute', time) AS minute, avg(value) AS value
FROM samples
WHERE tag(tags, 'container') = '{container}' AND time > now() - INTERVAL '6 hours'
GROUP BY metric, minute ORDER BY metric, minute
