-- The policy of Serverless Containers ("BDWatchdog" group, Universidade da Coruna): a margin below the limit makes two
-- thresholds, usage beyond them makes events, and only several events within a time move the limit.
--
-- Three rules, which run one behind the other at each window of ten seconds:
--     serverless_limits   sets upper and lower of each limit, as parameters
--     serverless_events   emits CpuBottleneck, CpuUnderuse, MemBottleneck, MemUnderuse
--     serverless_scale    counts the events, proposes a limit and consumes the events it acted on
-- Apply this file with `tidegate rule apply`, over HTTP or in the dashboard. No rule states a mode, so new ones start in the
-- configured one (shadow, unless changed): switch all three, and cpu_up, cpu_down and so on of the default pack off.
--
-- The settings stand at the top of each rule. Numbers are counted as the original counts them: whole percents of a core and
-- MiB (table units). What can be set: boundary and boundary_type, what one event counts for, the time that events live, and of
-- each request rule its thresholds, policy (amount, fit_to_usage, proportional), amount and how many events it removes.
--
-- Compatible mode (policy.compatible = true in serverless_limits; the others follow it) decides in every window as the
-- original does, its quirks included. They are fixed in the default mode:
--     thresholds     a fractional boundary, or one above 100, never settles and stops all scaling; a margin that is a share of
--                    the maximum puts upper below zero for small limits, which then ask for more for ever: here it is at most
--                    a quarter of the limit. Without an upper bound it is a share of the limit.
--     one for all    a mistake in the settings of one resource, or a division by zero, stops the other one, too
--     idle           a usage of exactly zero is never an underuse, and a limit within two margins of its lower bound is never
--                    lowered; here anything below lower counts, down to the bound
--     hysteresis     load that rises and falls within the time of the events never moves anything, since old events of the
--                    one kind outvote new ones of the other. Here events count from the last one of the other kind on.
--     saturation     usage cannot exceed the limit, so what is wanted beyond it is hidden: a window at the limit counts twice
--     removal        the events to remove are named after the summed counts, so a rule that raises may delete underuses and
--                    fire again on the same bottlenecks. Here it removes all of the kind that it acted on.
--     trim           an amount is trimmed at lower, not at the limit: a decrease may become an increase, and an increase may
--                    exceed the maximum. Here a limit stays within its bounds and moves the way its rule is meant to.
--     no data        without usage the formulas run on -1; here nothing is asked
--     peaks          fit_to_usage fits to the mean of ten seconds, so the peaks within them are throttled; here to their peak
-- Requests that are repeated while an earlier one is still on its way cannot happen in either mode: the engine's guards refuse
-- them, and the events stay open. Nor can a memory limit be lowered below what the kernel cannot take back.

-- Sets the thresholds of each limit for the other two rules.
CREATE OR REPLACE RULE serverless_limits
WITH (every = '10s', emit = 'param', ttl = '60s')
AS
-- Formula: margin = max(trunc(base * boundary / 100), 1), base = max or current by boundary_type;
--     upper = trunc(current - margin), lower = trunc(upper - margin)
-- Compatible, thresholds that stand and hold to all conditions are kept; otherwise they are made anew, with current cut to
-- max, and checked again: what fails then cannot be adjusted, and its container is left alone in this window.
WITH policy(compatible) AS (VALUES (false)),
settings(resource, place, boundary, boundary_type) AS (VALUES
    ('cpu',    1, 10.0, 'percentage_of_current'),
    ('memory', 2, 10.0, 'percentage_of_current')
),
units(resource, name, unit) AS (VALUES ('cpu', 'cpu', 0.01), ('memory', 'mem', 1048576.0)),
-- The limits of the last minute and the usage of this window: one of them may be missing.
measured AS (
    SELECT r.host, r.container, r.resource, w.usage_avg AS usage, r.allocated, r.min, r.max
    FROM recent(INTERVAL '60 seconds') AS r
    LEFT JOIN recent(INTERVAL '10 seconds') AS w
        ON w.host = r.host AND w.container = r.container AND w.resource = r.resource
),
-- In whole numbers; a container of which no usage is known in this window is left as it is.
counted AS (
    SELECT m.host, m.container, m.resource, u.name, s.place, s.boundary, s.boundary_type, p.compatible,
           round(nullif(m.max, 0) / u.unit, 6) AS max, round(m.allocated / u.unit, 6) AS current,
           round(m.min / u.unit, 6) AS min, f.upper, f.lower
    FROM (SELECT *, count(usage) OVER (PARTITION BY host, container) AS known FROM measured) AS m
    JOIN settings AS s ON s.resource = m.resource
    JOIN units AS u ON u.resource = m.resource
    CROSS JOIN policy AS p
    LEFT JOIN state AS f ON f.host = m.host AND f.container = m.container AND f.resource = m.resource
    WHERE m.known > 0
),
-- Pass 0 is what stands, pass 1 what is made anew.
steps(pass) AS (VALUES (0), (1)),
passes AS (
    SELECT *, CASE boundary_type WHEN 'percentage_of_max' THEN CASE WHEN compatible THEN max ELSE coalesce(max, now_current) END
                                 WHEN 'percentage_of_current' THEN now_current END AS base
    FROM (SELECT *, CASE pass WHEN 1 THEN least(current, max) ELSE current END AS now_current
          FROM counted CROSS JOIN steps)
),
margins AS (
    SELECT *, CASE WHEN base IS NULL THEN NULL
                   WHEN compatible THEN greatest(trunc(base * boundary / 100), 1)
                   ELSE greatest(least(trunc(base * boundary / 100), trunc(now_current / 4)), 1) END AS margin,
           CASE WHEN base IS NOT NULL THEN greatest(trunc(trunc(base) * trunc(boundary) / 100), 1) END AS whole_margin
    FROM passes
),
placed AS (
    SELECT host, container, resource, name, place, boundary, boundary_type, compatible, max, min, pass, margin, whole_margin,
           now_current AS current, upper AS former_upper, lower AS former_lower,
           CASE pass WHEN 0 THEN upper ELSE trunc(now_current - margin) END AS upper,
           CASE pass WHEN 0 THEN lower ELSE trunc(trunc(now_current - margin) - margin) END AS lower
    FROM margins
),
checked AS (
    SELECT *, CASE
        WHEN max IS NULL OR current IS NULL OR upper IS NULL OR lower IS NULL OR min IS NULL THEN 'unset'
        WHEN trunc(current) > trunc(max) THEN 'current_gt_max'
        WHEN trunc(upper) > trunc(current) THEN 'upper_gt_current'
        WHEN trunc(lower) > trunc(upper) THEN 'lower_gt_upper'
        WHEN trunc(boundary) < 0 THEN 'boundary_below_0'
        WHEN trunc(boundary) > 100 THEN 'boundary_above_100'
        WHEN whole_margin IS NULL THEN 'bad_boundary_type'
        WHEN trunc(current) - whole_margin < trunc(upper) THEN 'upper_too_close'
        WHEN trunc(current) - whole_margin > trunc(upper) THEN 'upper_too_far' END AS failure
    FROM placed
),
adjusted AS (
    SELECT host, container, resource, name, place, compatible, former_upper, former_lower,
           boundary_type IN ('percentage_of_max', 'percentage_of_current') AS sound_type,
           compatible AND max(failure) FILTER (WHERE pass = 0) IS NULL AS stands,
           max(failure) FILTER (WHERE pass = 1) AS remains,
           max(current) FILTER (WHERE pass = 0) AS former_current, max(current) FILTER (WHERE pass = 1) AS cut_current,
           max(upper) FILTER (WHERE pass = 1) AS new_upper, max(lower) FILTER (WHERE pass = 1) AS new_lower,
           max(margin) FILTER (WHERE pass = 1) AS margin,
           CASE WHEN (boundary IS NULL AND boundary_type IS NULL AND former_upper IS NULL AND former_lower IS NULL)
                  OR (max IS NULL AND min IS NULL AND max(current) IS NULL) THEN 'missing_key:' || name
                WHEN boundary IS NULL OR boundary_type IS NULL OR max(current) IS NULL OR (compatible AND max IS NULL)
                THEN 'missing_field' END AS missing
    FROM checked
    GROUP BY host, container, resource, name, place, compatible, former_upper, former_lower, boundary, boundary_type, max, min
),
-- Compatible, one that fails stops those behind it, and nothing of its container is set.
settled AS (
    SELECT *, coalesce(place > stopped_at, false) AS behind,
           CASE WHEN compatible THEN stopped_at IS NOT NULL ELSE error IS NOT NULL END AS stopped
    FROM (SELECT *, CASE WHEN compatible THEN min(CASE WHEN error IS NOT NULL THEN place END)
                                              OVER (PARTITION BY host, container) END AS stopped_at
          FROM (SELECT *, CASE WHEN missing IS NOT NULL THEN missing
                               WHEN stands THEN NULL
                               WHEN NOT sound_type THEN 'bad_boundary_type'
                               WHEN compatible AND remains IS NOT NULL THEN 'cannot_adjust' END AS error
                FROM adjusted))
),
bands AS (
    SELECT host, container, resource, place, compatible, margin, error, stopped, former_upper, former_lower,
           CASE WHEN behind OR missing IS NOT NULL THEN former_current ELSE cut_current END AS current,
           CASE WHEN behind OR stands OR missing IS NOT NULL OR NOT sound_type THEN former_upper ELSE new_upper END AS upper,
           CASE WHEN behind OR stands OR missing IS NOT NULL OR NOT sound_type THEN former_lower ELSE new_lower END AS lower
    FROM settled
),
names(name) AS (VALUES ('upper'), ('lower'), ('margin'), ('compatible'))
SELECT b.host, b.container, b.resource, CASE WHEN NOT b.stopped THEN n.name END AS name,
       CASE n.name WHEN 'upper' THEN b.upper WHEN 'lower' THEN b.lower WHEN 'margin' THEN b.margin
                   ELSE CASE WHEN b.compatible THEN 1.0 ELSE 0.0 END END AS value,
       CASE WHEN b.stopped THEN b.former_upper ELSE b.upper END AS upper,
       CASE WHEN b.stopped THEN b.former_lower ELSE b.lower END AS lower,
       b.current, b.error
FROM bands AS b CROSS JOIN names AS n;

-- Emits an event for each window whose usage lies above upper or below lower.
CREATE OR REPLACE RULE serverless_events
WITH (every = '10s', emit = 'event')
AS
-- Formula: exceeded_upper: usage > upper and upper < max and current < max
--          dropped_lower:  usage > 0 (or >= 0, by zero_counts) and usage < lower and lower > min
-- The original has two more, for energy: above_max and energy_low_cpu_high.
-- An event's value is what it counts for.
WITH settings(place, resource, test, up, down, zero_counts, active) AS (VALUES
    (1, 'cpu',    'exceeded_upper', 1.0, 0.0, false, true),
    (2, 'cpu',    'dropped_lower',  0.0, 1.0, false, true),
    (3, 'memory', 'exceeded_upper', 1.0, 0.0, false, true),
    (4, 'memory', 'dropped_lower',  0.0, 1.0, false, true)
),
-- The floor is the lowest limit of containers without bounds.
units(resource, name, unit, floor) AS (VALUES ('cpu', 'cpu', 0.01, 5.0), ('memory', 'mem', 1048576.0, 8.0)),
measured AS (
    SELECT host, container, resource, usage_avg AS usage, allocated, min, max FROM recent(INTERVAL '10 seconds')
),
bands AS (
    SELECT host, container, resource, max(CASE name WHEN 'upper' THEN value END) AS upper,
           max(CASE name WHEN 'lower' THEN value END) AS lower,
           max(CASE name WHEN 'compatible' THEN value END) = 1.0 AS compatible
    FROM params WHERE rule = 'serverless_limits' AND time = now() GROUP BY host, container, resource
),
counted AS (
    SELECT m.host, m.container, m.resource, u.name, b.compatible, round(m.usage / u.unit, 6) AS usage,
           least(round(m.allocated / u.unit, 6), round(m.max / u.unit, 6)) AS current,
           CASE WHEN b.compatible THEN round(m.min / u.unit, 6) ELSE coalesce(nullif(round(m.min / u.unit, 6), 0), u.floor)
           END AS min,
           CASE WHEN b.compatible THEN round(m.max / u.unit, 6) ELSE coalesce(nullif(round(m.max / u.unit, 6), 0), 1e12)
           END AS max,
           b.upper, b.lower
    FROM measured AS m
    JOIN units AS u ON u.resource = m.resource
    JOIN bands AS b ON b.host = m.host AND b.container = m.container AND b.resource = m.resource
),
matched AS (
    SELECT c.host, c.container, c.resource, c.name, c.compatible, c.usage, c.current, s.place, s.up, s.down,
           CASE s.test
               WHEN 'exceeded_upper' THEN c.usage > c.upper AND c.current < c.max AND (NOT c.compatible OR c.upper < c.max)
               WHEN 'dropped_lower' THEN c.usage < c.lower AND CASE
                   WHEN NOT c.compatible THEN c.usage >= 0 AND c.current > c.min
                   ELSE (c.usage > 0 OR (s.zero_counts AND c.usage = 0)) AND c.lower > c.min END
               WHEN 'above_max' THEN c.usage > c.max
               WHEN 'energy_low_cpu_high' THEN c.usage < c.upper AND c.cpu_excess > 0 END AS fires
    FROM (SELECT *, max(CASE resource WHEN 'cpu' THEN usage - upper END) OVER (PARTITION BY host, container) AS cpu_excess
          FROM counted) AS c
    JOIN settings AS s ON s.resource = c.resource
    WHERE s.active
),
named AS (
    SELECT host, container, resource, place, up, down,
           initcap(name) || CASE WHEN up > 0 AND (NOT coalesce(down > 0, false) OR up > down) THEN 'Bottleneck'
                                 WHEN down > 0 THEN 'Underuse' END AS event,
           CASE WHEN NOT compatible AND usage >= 0.97 * current THEN 2 ELSE 1 END AS weight
    FROM matched WHERE fires
)
SELECT host, container, resource, event AS name,
       CASE WHEN event LIKE '%Bottleneck' THEN weight * up ELSE down END AS value
FROM named;

-- Moves a limit when enough events have come together, and consumes them.
CREATE OR REPLACE RULE serverless_scale
WITH (every = '10s', class = 'protect', cooldown_up = '10s', cooldown_down = '60s', step_down = 0.5, dead_band = 0.01)
AS
-- Formula: a request rule fires when min_up <= up <= max_up and min_down <= down <= max_down, with up and down the sums of
-- what the live events count for. Its amount is
--     amount         the amount
--     fit_to_usage   trunc(usage + max(trunc(margin / 2), 1) + margin) - current: usage in the middle between the thresholds
--     proportional   trunc(min((usage - upper) / (current - upper), 1) * amount)
-- then, compatible: when lower + amount < min, amount += min - (lower + amount), or else when current + amount > max,
-- amount -= current + amount - max. The limit becomes current plus the amounts of all rules that fire.
-- An amount of 0 asks for nothing, but removes its events.
-- event_timeout is at most 180 s, which is what seen reads and consume_within takes.
WITH settings(event_timeout) AS (VALUES (120.0)),
requests(place, resource, direction, policy, amount, min_up, max_up, min_down, max_down, removes, active) AS (VALUES
    (1, 'cpu',    'up',   'amount',       75.0,  2.0,  NULL, NULL, 2.0,  2.0, true),
    (2, 'cpu',    'down', 'fit_to_usage', NULL,  NULL, 0.0,  6.0,  NULL, 6.0, true),
    (3, 'memory', 'up',   'amount',       256.0, 2.0,  NULL, NULL, 6.0,  2.0, true),
    (4, 'memory', 'down', 'fit_to_usage', NULL,  NULL, 0.0,  8.0,  NULL, 8.0, true)
),
units(resource, name, label, unit, floor) AS (VALUES
    ('cpu', 'cpu', '% of a core', 0.01, 5.0), ('memory', 'mem', 'MiB', 1048576.0, 8.0)
),
measured AS (
    SELECT r.host, r.container, r.resource, w.usage_avg AS usage, w.usage_max AS peak, r.allocated, r.min, r.max
    FROM recent(INTERVAL '60 seconds') AS r
    LEFT JOIN recent(INTERVAL '10 seconds') AS w
        ON w.host = r.host AND w.container = r.container AND w.resource = r.resource
),
bands AS (
    SELECT host, container, resource, max(CASE name WHEN 'upper' THEN value END) AS upper,
           max(CASE name WHEN 'lower' THEN value END) AS lower, max(CASE name WHEN 'margin' THEN value END) AS margin,
           max(CASE name WHEN 'compatible' THEN value END) = 1.0 AS compatible
    FROM params WHERE rule = 'serverless_limits' AND time = now() GROUP BY host, container, resource
),
counted AS (
    SELECT m.host, m.container, m.resource, u.name, u.label, u.unit, b.compatible, round(m.usage / u.unit, 6) AS usage,
           round(m.peak / u.unit, 6) AS peak, round(m.allocated / u.unit, 6) AS stored,
           least(round(m.allocated / u.unit, 6), round(m.max / u.unit, 6)) AS current,
           CASE WHEN b.compatible THEN round(m.min / u.unit, 6) ELSE coalesce(nullif(round(m.min / u.unit, 6), 0), u.floor)
           END AS min,
           CASE WHEN b.compatible THEN round(m.max / u.unit, 6) ELSE coalesce(nullif(round(m.max / u.unit, 6), 0), 1e12)
           END AS max,
           b.upper, b.lower, b.margin
    FROM measured AS m
    JOIN units AS u ON u.resource = m.resource
    JOIN bands AS b ON b.host = m.host AND b.container = m.container AND b.resource = m.resource
),
-- As far back as event_timeout may reach: all of that is read in each window.
seen AS (
    SELECT host, container, resource, name, value, time, consumed_by IS NULL AS open
    FROM events WHERE rule = 'serverless_events' AND time >= now() - INTERVAL '3 minutes'
),
-- Events are stamped with whole seconds, the clock is not.
aged AS (
    SELECT e.host, e.container, e.resource, e.time, e.open,
           floor(date_part('epoch', e.time)) >= date_part('epoch', now()) - s.event_timeout AS live,
           CASE WHEN e.name LIKE '%Bottleneck' THEN e.value ELSE 0.0 END AS up,
           CASE WHEN e.name LIKE '%Underuse' THEN e.value ELSE 0.0 END AS down
    FROM seen AS e CROSS JOIN settings AS s
),
-- up and down are all that live; the runs are those since the last event of the other kind; the ended ones are open, but too
-- old to count: they are consumed along, since the oldest go first.
counts AS (
    SELECT host, container, resource, coalesce(sum(up) FILTER (WHERE live AND open), 0) AS up,
           coalesce(sum(down) FILTER (WHERE live AND open), 0) AS down,
           coalesce(sum(up) FILTER (WHERE live AND open AND (last_down IS NULL OR time > last_down)), 0) AS up_run,
           coalesce(sum(down) FILTER (WHERE live AND open AND (last_up IS NULL OR time > last_up)), 0) AS down_run,
           count(*) FILTER (WHERE open AND NOT live AND up > 0) AS up_ended,
           count(*) FILTER (WHERE open AND NOT live AND down > 0) AS down_ended
    FROM (SELECT *, max(CASE WHEN up > 0 THEN time END) OVER (PARTITION BY host, container, resource) AS last_up,
                 max(CASE WHEN down > 0 THEN time END) OVER (PARTITION BY host, container, resource) AS last_down
          FROM aged)
    GROUP BY host, container, resource HAVING count(*) FILTER (WHERE live AND open) > 0
),
-- Each limit with each request rule that fires, or with none.
fired AS (
    SELECT c.*, r.place, r.direction, r.policy, r.amount, r.removes
    FROM (SELECT c.*, n.up_ended, n.down_ended, CASE WHEN c.compatible THEN n.up ELSE n.up_run END AS up,
                 CASE WHEN c.compatible THEN n.down ELSE n.down_run END AS down
          FROM counts AS n
          JOIN counted AS c ON c.host = n.host AND c.container = n.container AND c.resource = n.resource) AS c
    LEFT JOIN requests AS r ON r.resource = c.resource
      AND r.active AND r.direction IN ('up', 'down')
      AND (r.policy = 'fit_to_usage' OR (r.policy IN ('amount', 'proportional') AND r.amount IS NOT NULL))
      AND (r.min_up IS NULL OR c.up >= r.min_up) AND (r.max_up IS NULL OR c.up <= r.max_up)
      AND (r.min_down IS NULL OR c.down >= r.min_down) AND (r.max_down IS NULL OR c.down <= r.max_down)
      AND c.current IS NOT NULL AND (c.compatible OR c.usage IS NOT NULL)
),
-- A usage that is not known is -1.
wanted AS (
    SELECT *,
           CASE policy
               WHEN 'amount' THEN trunc(amount)
               WHEN 'fit_to_usage' THEN trunc(
                   coalesce(CASE WHEN compatible THEN usage ELSE greatest(usage, peak) END, -1.0)
                   + greatest(trunc(margin / 2), 1) + margin) - current
               ELSE trunc(trunc(least((coalesce(usage, -1.0) - upper) / nullif(current - upper, 0), 1) * amount)) END AS raw,
           CASE WHEN place IS NULL THEN NULL ELSE initcap(name) || CASE
               WHEN NOT compatible THEN CASE direction WHEN 'up' THEN 'Bottleneck' ELSE 'Underuse' END
               WHEN up > 0 AND (NOT coalesce(down > 0, false) OR up > down) THEN 'Bottleneck'
               WHEN down > 0 THEN 'Underuse' END END AS event
    FROM fired
),
trimmed AS (
    SELECT *, CASE WHEN raw IS NULL THEN NULL
                   WHEN NOT compatible THEN CASE direction
                       WHEN 'up' THEN greatest(least(raw, max - current), 0)
                       ELSE least(greatest(raw, min - current), 0) END
                   WHEN lower + trunc(raw) < min THEN trunc(raw) + min - (lower + trunc(raw))
                   WHEN current + trunc(raw) > max THEN trunc(raw) - (current + trunc(raw) - max)
                   ELSE trunc(raw) END AS change
    FROM wanted
),
asked AS (
    SELECT *, initcap(name) || CASE WHEN trunc(change) > 0 THEN 'RescaleUp' WHEN trunc(change) < 0 THEN 'RescaleDown' END
               AS action,
           CASE WHEN place IS NULL THEN NULL
                WHEN policy = 'proportional' AND current = upper THEN 'division_by_zero'
                WHEN event IS NULL THEN 'no_positive_count' END AS mistake
    FROM trimmed
),
-- Compatible, a mistake about one resource stops all requests of its container.
decided AS (
    SELECT *, CASE WHEN compatible THEN max(mistake) OVER (PARTITION BY host, container) ELSE mistake END AS error
    FROM (SELECT host, container, resource, compatible, stored, unit, label, up, down, up_ended, down_ended,
                 sum(change) AS total, min(event) AS event, sum(removes) AS removes, max(mistake) AS mistake,
                 string_agg(action || ' ' || CAST(CAST(change AS BIGINT) AS VARCHAR), ', ' ORDER BY place) AS requests
          FROM asked
          GROUP BY host, container, resource, compatible, stored, unit, label, up, down, up_ended, down_ended)
)
SELECT d.host, d.container, d.resource,
       CASE WHEN d.error IS NULL AND d.total <> 0 THEN (d.stored + d.total) * d.unit END AS target,
       concat(d.requests, ' ', d.label, ', since ', CAST(CAST(d.up AS BIGINT) AS VARCHAR), ' of bottlenecks and ',
              CAST(CAST(d.down AS BIGINT) AS VARCHAR), ' of underuses count') AS reason,
       CASE WHEN d.error IS NULL THEN d.event END AS consume_event,
       CASE WHEN d.compatible
            THEN d.removes + CASE WHEN d.event LIKE '%Bottleneck' THEN d.up_ended ELSE d.down_ended END END AS consume_count,
       180 AS consume_within,
       d.up, d.down, CASE WHEN d.error IS NULL THEN d.requests END AS requests, d.error,
       coalesce(d.requests, s.last_requests) AS last_requests
FROM decided AS d
LEFT JOIN state AS s ON s.host = d.host AND s.container = d.container AND s.resource = d.resource;
