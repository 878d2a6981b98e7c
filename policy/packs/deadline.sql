-- Jobs that are to be done at a certain time: CPU enough to end in time, and no more.
--
-- Apply this file with `tidegate rule apply`, over HTTP or in the dashboard; applying it again changes nothing. No rule
-- states a mode, so new ones start in the configured one (shadow, unless changed) and existing ones keep theirs.
--
-- What the rules read are the metrics that the monitors of Asperathos push, in both of its spellings, with a tag
-- application_id. All are fractions, but for the two that begin with total_, which are percent:
--     done     job_progress, application-progress.app_progress, application-progress.total_app_progress
--     passed   time_progress, application-progress.time_progress, application-progress.total_time_progress: the share of the
--              time until the deadline that is over
--     error    application_progress_error, application-progress.error: done - passed, so below 0 the job is late
-- They are read from `samples`, since a metric is a table of its own only once it was pushed.
--
-- What they act on is the CPU limit of the containers whose app is that application_id, or whose name it is. 100 % of a
-- container is its upper bound; without one its baseline, the limit that it came with; without that what the host has. For
-- a cap of Asperathos is percent of the CPUs that a machine was given, and that is what its owner gave the container.
--
-- Which rule is for a container says its label `deadline`: asperathos-NAME chooses a row of the parameters of
-- deadline_asperathos, anything else and no label at all chooses deadline_finish and deadline_pace. A job is throttled on
-- purpose, so the rules are of class cap, which is watched for no regressions; and other rules for CPU should leave jobs alone:
--     ALTER RULE cpu_up SET (scope = '!deadline');

-- A job gets what it needs to end in time at the pace at which it was seen to work.
CREATE OR REPLACE RULE deadline_finish
WITH (every = '1s', class = 'cap', scope = 'deadline != asperathos-*', cooldown_up = '5s', cooldown_down = '10s', dead_band = 0.05)
AS
-- Formula: needed = (1 - done) / rate / (left (1 - reserve)) / filled, for all containers of the job together
--     rate     progress per core-second, of the samples so far; the weight of one halves with each `memory` of the time
--              that passes after it
--     left     seconds to the deadline, (1 - passed) expected, where expected = seconds / share of time that passed meanwhile
--     filled   the share of its limits that the job uses, at least 2/3: no job uses all of its limit all of the time
-- It is shared by what each container uses. Above what all of them may have, or behind the deadline, each gets 100 %,
-- and the reason says that it will not do. A job of which no progress was seen gets 100 % once it is late.
-- Source: prediction against the deadline as in Asperathos' vertical_elasticity supervisor (prediction = now + duration x
-- remaining iterations), which Asperathos' controllers do not have.
-- Parameters: reserve, the share of what is left of the time that is kept in hand; memory, in shares of the expected time;
-- tolerance, how late a job may be before progress was seen; lowest, of 100 %, what any container of a job keeps.
-- Quirks of Asperathos that are none here: it looks ahead; it reckons with the time between samples; there is no integral
-- that could wind up, since what is behind shows in what is left to do; fractions throughout; each container has a limit of
-- its own instead of one cap for all, read from the first; small corrections add up until they are worth a change.
-- State: one row a container at each tick. `work` are core-seconds since the last sample.
WITH parameters AS (SELECT 0.05 AS reserve, 0.1 AS memory, 0.1 AS tolerance, 0.05 AS lowest),
pushed AS (
    SELECT tag(tags, 'application_id') AS application, date_part('epoch', max(time)) AS sampled,
           last(CASE WHEN metric IN ('job_progress', 'application-progress.app_progress') THEN value
                     WHEN metric = 'application-progress.total_app_progress' THEN value / 100 END, time) AS done,
           last(CASE WHEN metric IN ('time_progress', 'application-progress.time_progress') THEN value
                     WHEN metric = 'application-progress.total_time_progress' THEN value / 100 END, time) AS passed,
           last(CASE WHEN metric IN ('application_progress_error', 'application-progress.error') THEN value END, time) AS error
    FROM samples
    WHERE time > now() - INTERVAL '10 minutes'
      AND metric IN ('job_progress', 'application-progress.app_progress', 'application-progress.total_app_progress',
                     'time_progress', 'application-progress.time_progress', 'application-progress.total_time_progress',
                     'application_progress_error', 'application-progress.error')
    GROUP BY 1
),
-- Two of the three tell the third.
jobs AS (
    SELECT application, sampled, coalesce(done, passed + error) AS done, coalesce(passed, done - error) AS passed
    FROM pushed
),
members AS (
    SELECT r.host, r.container, r.resource, r.allocated, r.usage,
           coalesce(nullif(r."max", 0), c.baseline_cpu, h.cpu) AS entire,
           j.application, j.sampled, j.done, j.passed, p.reserve, p.memory, p.tolerance, p.lowest,
           s.sampled AS seen, s.done AS seen_done, s.passed AS seen_passed, coalesce(s.hopeless, 0.0) AS hopeless,
           coalesce(s.began, j.sampled) AS began, coalesce(s.began_passed, j.passed) AS began_passed,
           coalesce(s.gained, 0.0) AS gained, coalesce(s.spent, 0.0) AS spent,
           sum(r.usage) OVER (PARTITION BY j.application) AS cores,
           sum(r.allocated) OVER (PARTITION BY j.application) AS held,
           coalesce(s.work, 0.0) + sum(r.usage) OVER (PARTITION BY j.application)
               * least(coalesce(date_part('epoch', now()) - date_part('epoch', s.time), 0.0), 60.0) AS work
    FROM jobs AS j
    JOIN recent(INTERVAL '60 seconds') AS r ON r.app = j.application OR r.container = j.application
    CROSS JOIN parameters AS p
    LEFT JOIN containers AS c ON c.host = r.host AND c.container = r.container
    LEFT JOIN hosts AS h ON h.host = r.host
    -- Of a job whose time goes backwards nothing is known: it is another one by the same name.
    LEFT JOIN state AS s ON s.host = r.host AND s.container = r.container AND s.resource = r.resource
        AND s.passed <= j.passed
    WHERE r.resource = 'cpu' AND r.allocated > 0 AND j.done IS NOT NULL AND j.passed IS NOT NULL
),
learnt AS (
    SELECT host, container, resource, allocated, usage, entire, application, sampled, done, passed, reserve, tolerance,
           lowest, hopeless, began, began_passed, cores, held, sum(entire) OVER (PARTITION BY application) AS most,
           seen IS NULL OR sampled > seen AS news,
           CASE WHEN sampled > seen THEN gained * power(0.5, (passed - seen_passed) / memory)
                                         + greatest(done - seen_done, 0.0) ELSE gained END AS gained,
           CASE WHEN sampled > seen THEN spent * power(0.5, (passed - seen_passed) / memory) + work ELSE spent END AS spent,
           CASE WHEN seen IS NULL OR sampled > seen THEN 0.0 ELSE work END AS work
    FROM members
),
-- Whoever joins a job later takes over what the others know.
known AS (
    SELECT *, max(nullif(gained, 0.0) / nullif(spent, 0.0)) OVER (PARTITION BY application) AS rate,
           max((sampled - began) / nullif(passed - began_passed, 0.0)) OVER (PARTITION BY application) AS expected
    FROM learnt
),
ahead AS (
    SELECT *, (1 - done) / rate AS rest, (1 - passed) * expected - (date_part('epoch', now()) - sampled) AS remaining,
           greatest(least(cores / held, 1.0), 0.667) AS filled, coalesce(usage / nullif(cores, 0.0), entire / most) AS share
    FROM known
),
planned AS (
    SELECT *, CASE WHEN remaining > 0 THEN rest / (remaining * (1 - reserve)) / filled END AS needed,
           CASE WHEN done >= 1 THEN 'done'
                WHEN passed >= 1 OR remaining <= 0 THEN 'over'
                WHEN rate IS NULL AND passed - done > tolerance THEN 'unseen'
                WHEN rate IS NULL OR remaining IS NULL THEN 'new'
                WHEN rest / remaining >= most THEN 'short'
                ELSE 'fits' END AS outlook
    FROM ahead
),
wanted AS (
    SELECT *, CASE WHEN NOT news OR outlook IN ('done', 'new') THEN NULL
                   WHEN outlook = 'fits' THEN least(greatest(needed * share, lowest * entire), entire)
                   ELSE entire END AS wants,
           CASE WHEN outlook IN ('over', 'short') THEN 1.0 ELSE 0.0 END AS lost
    FROM planned
)
SELECT host, container, resource,
       -- What stands already within the dead band is not asked for; that it will not do is said once in any case.
       CASE WHEN abs(wants - allocated) > 0.05 * allocated OR (lost > hopeless AND news) THEN wants END AS target,
       concat('job ', application, ' is ', round(100 * done, 1), ' % done after ', round(100 * passed, 1), ' % of its time',
              CASE outlook
                   WHEN 'over' THEN ': its deadline is over, so it gets all it may have'
                   WHEN 'short' THEN concat(': it cannot end in time even with the ', round(most, 2),
                        ' cores that it may have, since it needs ', round(rest / remaining, 2), ' for the ',
                        round(remaining), ' s that are left')
                   WHEN 'unseen' THEN ': no progress was seen yet, and it is late'
                   WHEN 'fits' THEN concat(': with ', round(cores, 2), ' cores it would end ',
                        round(abs(rest / nullif(cores, 0.0) - remaining)), ' s ',
                        CASE WHEN rest / nullif(cores, 0.0) > remaining THEN 'too late' ELSE 'early' END,
                        ', with ', round(needed, 2), ' in time')
                   ELSE '' END) AS reason,
       sampled, done, passed, began, began_passed, gained, spent, work,
       CASE WHEN news THEN lost ELSE hopeless END AS hopeless
FROM wanted;

-- A job of which only the error is pushed goes faster while it is late and slower while it is ahead.
CREATE OR REPLACE RULE deadline_pace
WITH (every = '1s', class = 'cap', scope = 'deadline != asperathos-*', cooldown_up = '5s', cooldown_down = '10s', dead_band = 0.05)
AS
-- Formula: cap = cap - proportional (error - last error) - integral error seconds since the last sample, within lowest and
-- highest, all in fractions of 100 %.
-- Source: the PID of Asperathos without its derivative, in the form that has increments: its integral is the cap itself,
-- which is kept within its bounds, so it cannot wind up there; it reckons with the time between samples; and the cap is
-- kept as a state of the rule, so that increments that are too small for a change are not lost.
-- Parameters: proportional, of the cap for each part by which the error grew; integral, the same a second for each part of
-- error; tolerance, an error that is none; lowest and highest cap.
WITH parameters AS (SELECT 10.0 AS proportional, 0.3 AS integral, 0.01 AS tolerance, 0.05 AS lowest, 1.0 AS highest),
pushed AS (
    SELECT tag(tags, 'application_id') AS application, date_part('epoch', max(time)) AS sampled,
           last(CASE WHEN metric IN ('application_progress_error', 'application-progress.error') THEN value END, time) AS error,
           count(CASE WHEN metric IN ('application_progress_error', 'application-progress.error') THEN 1 END) AS errors,
           count(*) AS all_of_them
    FROM samples
    WHERE time > now() - INTERVAL '10 minutes'
      AND metric IN ('job_progress', 'application-progress.app_progress', 'application-progress.total_app_progress',
                     'time_progress', 'application-progress.time_progress', 'application-progress.total_time_progress',
                     'application_progress_error', 'application-progress.error')
    GROUP BY 1
),
members AS (
    SELECT r.host, r.container, r.resource, r.allocated, e.application, e.sampled, e.error, p.lowest, p.highest,
           coalesce(nullif(r."max", 0), c.baseline_cpu, h.cpu) AS entire,
           coalesce(s.cap, r.allocated / coalesce(nullif(r."max", 0), c.baseline_cpu, h.cpu)) AS cap,
           p.proportional * coalesce(e.error - s.error, 0.0) AS by_change,
           CASE WHEN abs(e.error) > p.tolerance
                THEN p.integral * e.error * least(coalesce(e.sampled - s.sampled, 0.0), 60.0) ELSE 0.0 END AS by_time
    FROM pushed AS e
    JOIN recent(INTERVAL '60 seconds') AS r ON r.app = e.application OR r.container = e.application
    CROSS JOIN parameters AS p
    LEFT JOIN containers AS c ON c.host = r.host AND c.container = r.container
    LEFT JOIN hosts AS h ON h.host = r.host
    LEFT JOIN state AS s ON s.host = r.host AND s.container = r.container AND s.resource = r.resource
    WHERE r.resource = 'cpu' AND r.allocated > 0 AND e.errors = e.all_of_them
      AND (s.sampled IS NULL OR e.sampled > s.sampled)
),
moved AS (
    SELECT *, least(greatest(cap - by_change - by_time, lowest), highest) AS next FROM members
)
SELECT host, container, resource,
       CASE WHEN abs(next * entire - allocated) > 0.05 * allocated THEN next * entire END AS target,
       concat('job ', application, ' is ', round(100 * abs(error), 1), CASE WHEN error < 0 THEN ' % late' ELSE ' % ahead' END,
              CASE WHEN next >= highest AND error < 0 THEN ', and has all it may have'
                   ELSE concat(', so its cap is ', round(100 * next, 1), ' %') END) AS reason,
       sampled, error, next AS cap
FROM moved;

-- As Asperathos' controllers decide, quirks and all.
CREATE OR REPLACE RULE deadline_asperathos
WITH (every = '1s', class = 'cap', scope = 'deadline = asperathos-*', cooldown_up = '1s', cooldown_down = '1s', step_down = 1,
      dead_band = 0)
AS
-- Formulas, with e the error times `scale` in `digits` digits, and what is allotted counted in units of `unit` percent; on
-- each sample that is newer than the last one acted on:
--     late     e < 0 and -e >= trigger_up               ahead    e > 0 and e >= trigger_down
--     step          late: least(n + size, highest); ahead: greatest(n - size, lowest)
--     tendency      as step; when neither, by the sign of the change of e: it fell, as late; it rose, as ahead
--     proportional  late: least(n - up e, highest); ahead: greatest(n - down e, lowest)
--     pd            late or ahead: n - up e - derivative (e - last e), within lowest and highest
--     pid           always: n - up e - derivative (e - last e) - integral (sum of all e), within lowest and highest; when
--                   `whole`, what is added is a whole number, cut off towards 0
-- Source: the controllers of Asperathos: generic (progress-error), tendency, proportional (error_proportional has one factor,
-- error_proportional_up_down two), proportional_derivative and pid; its schedulers default and pid for replicas, where a unit
-- stands for a replica: a limit has no replicas.
-- Parameters: their names, then a row for each policy, to which more may be added; a container has the label deadline = asperathos-POLICY.
-- `scale` is 100 where Asperathos read the error from Monasca, in percent, and 1 where it read it from Redis, as a fraction.
-- Its quirks: the integral winds up; time between samples does not matter; pid ignores the triggers; whole numbers swallow
-- small gains; no waiting after a change, no smallest and no largest step.
WITH parameters AS (
    SELECT '' AS policy, '' AS form, 0.0 AS trigger_up, 0.0 AS trigger_down, 0.0 AS size, 0.0 AS up, 0.0 AS down, 0.0
           AS derivative, 0.0 AS integral, 0.0 AS lowest, 0.0 AS highest, 0 AS digits, 0.0 AS scale, 0.0 AS unit,
           false AS whole
    WHERE false
    UNION ALL SELECT 'progress-error', 'step', 10.0, 10.0, 15.0, 0.0, 0.0, 0.0, 0.0, 20.0, 100.0, 2, 100.0, 1.0, false
    UNION ALL SELECT 'tendency', 'tendency', 10.0, 10.0, 15.0, 0.0, 0.0, 0.0, 0.0, 20.0, 100.0, 2, 100.0, 1.0, false
    UNION ALL SELECT 'proportional', 'proportional', 10.0, 10.0, 0.0, 1.0, 1.0, 0.0, 0.0, 20.0, 100.0, 2, 100.0, 1.0, false
    UNION ALL SELECT 'up-down', 'proportional', 10.0, 10.0, 0.0, 2.0, 0.5, 0.0, 0.0, 20.0, 100.0, 2, 100.0, 1.0, false
    UNION ALL SELECT 'pd', 'pd', 10.0, 10.0, 0.0, 1.0, 0.0, 0.5, 0.0, 20.0, 100.0, 2, 100.0, 1.0, false
    UNION ALL SELECT 'pid', 'pid', 0.0, 0.0, 0.0, 0.9817, 0.0, 0.0871, 0.01, 20.0, 100.0, 2, 100.0, 1.0, false
    UNION ALL SELECT 'default', 'step', 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 10.0, 9, 1.0, 10.0, false
    UNION ALL SELECT 'replicas', 'pid', 0.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 1.0, 10.0, 9, 1.0, 10.0, true
),
pushed AS (
    SELECT tag(tags, 'application_id') AS application, date_part('epoch', max(time)) AS sampled, last(value, time) AS error
    FROM samples
    WHERE time > now() - INTERVAL '1 minute' AND metric IN ('application_progress_error', 'application-progress.error')
    GROUP BY 1
),
members AS (
    SELECT r.host, r.container, r.resource, e.application, e.sampled, p.policy, p.form, p.trigger_up, p.trigger_down, p.size,
           p.up, p.down, p.derivative, p.lowest, p.highest, p.whole, p.integral AS gain,
           round(p.scale * e.error, p.digits) AS error,
           round(p.scale * e.error, p.digits) - s.error AS change,
           coalesce(s.integral, 0.0) + round(p.scale * e.error, p.digits) AS integral,
           coalesce(nullif(r."max", 0), c.baseline_cpu, h.cpu) * p.unit / 100 AS one,
           -- A quota is written in whole microseconds, so what is read back may be a little off the cap that was meant.
           round(r.allocated / (coalesce(nullif(r."max", 0), c.baseline_cpu, h.cpu) * p.unit / 100), 6) AS n
    FROM pushed AS e
    JOIN recent(INTERVAL '60 seconds') AS r ON r.app = e.application OR r.container = e.application
    JOIN containers AS c ON c.host = r.host AND c.container = r.container
    JOIN parameters AS p ON concat('asperathos-', p.policy) = tag(c.labels, 'deadline')
    LEFT JOIN hosts AS h ON h.host = r.host
    LEFT JOIN state AS s ON s.host = r.host AND s.container = r.container AND s.resource = r.resource
    WHERE r.resource = 'cpu' AND r.allocated > 0 AND (s.sampled IS NULL OR e.sampled > s.sampled)
),
sided AS (
    SELECT *, CASE WHEN error < 0 AND -error >= trigger_up THEN 'late'
                   WHEN error > 0 AND error >= trigger_down THEN 'ahead'
                   WHEN form = 'tendency' AND change < 0 THEN 'late'
                   WHEN form = 'tendency' AND change > 0 THEN 'ahead' END AS side,
           -1 * error * up + -1 * derivative * coalesce(change, 0.0)
               + CASE WHEN form = 'pid' THEN -1 * integral * gain ELSE 0.0 END AS correction
    FROM members
),
moved AS (
    SELECT *, CASE WHEN form IN ('step', 'tendency') AND side = 'late' THEN least(n + size, highest)
                   WHEN form IN ('step', 'tendency') AND side = 'ahead' THEN greatest(n - size, lowest)
                   WHEN form = 'proportional' AND side = 'late' THEN least(n + abs(error * up), highest)
                   WHEN form = 'proportional' AND side = 'ahead' THEN greatest(n - abs(error * down), lowest)
                   WHEN form = 'pid' OR (form = 'pd' AND side IS NOT NULL)
                   THEN greatest(least(n + CASE WHEN whole THEN trunc(correction) ELSE correction END, highest), lowest)
              END AS next
    FROM sided
)
SELECT host, container, resource, next * one AS target,
       concat('asperathos-', policy, ': the error of job ', application, ' is ', error, ', so ', n, ' becomes ', next) AS reason,
       sampled, error, integral
FROM moved;
