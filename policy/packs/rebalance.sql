-- CPU moves within an app: from containers that do not use it to those that need it. The limits of the app's containers on
-- a host never add up to more than they did at the start.
--
-- Apply this file with `tidegate rule apply`, over HTTP or in the dashboard; applying it again changes nothing. No rule
-- states a mode; the three belong together, and none of them does harm without the others.
--
-- The order is what matters: rebalance_give lowers limits, rebalance_take raises others by what is missing to the sum of
-- the shares, as far as it was measured. A decrease that a guard refuses, or that fails, leaves nothing to take.
-- Since what was given is spent, nobody may put a donor's limit back by himself: decreases are not watched for regressions
-- (watch) and not taken back without data (hold_max). A donor that needs more again asks as everybody does.
-- Other rules for CPU should leave these containers alone: what they add is not counted, what they save is handed on.
--
-- Source: the pair swapping of Serverless Containers' ReBalancer (donors give a share of current - max(min, usage), and
-- receivers take it in slices). Quirks of it that are none here: receivers are planned before donors have given, so on a
-- full host swaps are refused; who is near his maximum gives even if he needs it, also to himself; slices make the result
-- depend on the order.

-- What each container brought along is its share of the app; what is known of its limit is kept beside it.
CREATE OR REPLACE RULE rebalance_share
WITH (every = '1s', emit = 'param', scope = 'app', ttl = '10m')
AS
-- Of a container that falls silent both stay for ten minutes (ttl), so that what it has received is not handed out again.
-- In shadow mode, where nothing moves, a share is the limit of the moment, so that switching on begins with today's limits.
WITH members AS (
    SELECT r.host, r.container, r.resource, r.allocated, coalesce(p.value, r.allocated) AS share
    FROM recent(INTERVAL '60 seconds') AS r
    LEFT JOIN params AS p ON p.rule = 'rebalance_share' AND p.name = 'share' AND p.mode = 'on'
        AND p.host = r.host AND p.container = r.container AND p.resource = r.resource
    WHERE r.resource = 'cpu' AND r.allocated > 0 AND r.app IS NOT NULL
)
SELECT host, container, resource, 'share' AS name, share AS value FROM members
UNION ALL
SELECT host, container, resource, 'limit' AS name, allocated AS value FROM members;

-- Containers that do not use what they have give a part of it, as long as others of their app need more.
CREATE OR REPLACE RULE rebalance_give
WITH (every = '1s', class = 'optimise', scope = 'app', cooldown_down = '10s', step_down = 0.5, dead_band = 0.02, watch = '0s',
      hold_max = '0s')
AS
-- Formula: offer = stolen (limit - max(lower bound, headroom peak of 60 s)), of containers that were not throttled for 60 s;
-- all offers are cut alike when they are more than what is wished for and not given yet.
-- wish = growth limit, up to the upper bound, of containers that use more than 1 - near of their limit or that are
-- throttled in more than `throttled` of the periods.
-- Parameters: as named. The same ones stand in rebalance_take.
WITH parameters AS (SELECT 0.4 AS stolen, 0.1 AS near, 0.05 AS throttled, 1.1 AS headroom, 0.5 AS growth),
-- What is missing to the sum of the shares: it was given and not taken yet.
pools AS (
    SELECT c.host, c.app, sum(CASE WHEN p.name = 'share' THEN p.value ELSE -p.value END) AS pool
    FROM params AS p JOIN containers AS c ON c.host = p.host AND c.container = p.container
    WHERE p.rule = 'rebalance_share' AND p.resource = 'cpu'
    GROUP BY c.host, c.app
),
members AS (
    SELECT r.host, r.container, r.resource, r.app, r.allocated, greatest(o.pool, 0.0) AS pool, q.stolen,
           q.growth * r.allocated AS more, coalesce(nullif(r."max", 0), 1e9) - r.allocated AS room,
           r.usage > (1 - q.near) * r.allocated OR coalesce(r.throttled_last, 0) > q.throttled AS wants,
           coalesce(r.throttled, 0) = 0 AS calm,
           greatest(coalesce(nullif(r.min, 0), 0.05), q.headroom * r.usage_max) AS needs
    FROM recent(INTERVAL '60 seconds') AS r
    JOIN pools AS o ON o.host = r.host AND o.app = r.app
    CROSS JOIN parameters AS q
    WHERE r.resource = 'cpu' AND r.allocated > 0 AND r.age < 5
),
offers AS (
    SELECT *, CASE WHEN wants THEN greatest(least(more, room), 0.0) ELSE 0.0 END AS wish,
           CASE WHEN calm AND NOT wants THEN greatest(stolen * (allocated - needs), 0.0) ELSE 0.0 END AS offer
    FROM members
),
sums AS (
    SELECT *, sum(wish) OVER (PARTITION BY host, app) AS wished, sum(offer) OVER (PARTITION BY host, app) AS offered
    FROM offers
),
gifts AS (
    SELECT *, offer * least((wished - pool) / nullif(offered, 0.0), 1.0) AS gift FROM sums WHERE wished > pool AND offer > 0
)
SELECT host, container, resource, allocated - gift AS target,
       concat('it does not use ', round(allocated - needs, 2), ' of its ', round(allocated, 2), ' cores, and others of ', app,
              ' want ', round(wished - pool, 2), ' more') AS reason
FROM gifts
WHERE gift > 0.02 * allocated;

-- Containers that need more share what was given; what nobody needs goes back to those who gave.
CREATE OR REPLACE RULE rebalance_take
WITH (every = '1s', class = 'protect', scope = 'app', cooldown_up = '1s', dead_band = 0, hold_max = '0s')
AS
-- Formula: limit + pool wish / sum of the wishes, at most the wish; when nobody wishes anything, limit + pool (share - limit)
-- / sum of what is missing to the shares.
-- The pool is the sum of the shares less the sum of the limits as they were measured, and less what this rule has asked for
-- in the last ten seconds and does not see yet: a limit that was read too early is not there to take twice.
-- Parameters: those of rebalance_give.
WITH parameters AS (SELECT 0.1 AS near, 0.05 AS throttled, 0.5 AS growth),
pools AS (
    SELECT c.host, c.app, sum(CASE WHEN p.name = 'share' THEN p.value ELSE -p.value END) AS pool
    FROM params AS p JOIN containers AS c ON c.host = p.host AND c.container = p.container
    WHERE p.rule = 'rebalance_share' AND p.resource = 'cpu'
    GROUP BY c.host, c.app
),
members AS (
    SELECT r.host, r.container, r.resource, r.app, r.allocated, o.pool, r.usage,
           q.growth * r.allocated AS more, coalesce(nullif(r."max", 0), 1e9) - r.allocated AS room,
           r.usage > (1 - q.near) * r.allocated OR coalesce(r.throttled_last, 0) > q.throttled AS wants,
           greatest(p.value - r.allocated, 0.0) AS missing,
           CASE WHEN s.asked_at > date_part('epoch', now()) - 10 THEN s.asked END AS asked,
           CASE WHEN s.asked_at > date_part('epoch', now()) - 10 THEN s.asked_at END AS asked_at
    FROM recent(INTERVAL '60 seconds') AS r
    JOIN pools AS o ON o.host = r.host AND o.app = r.app
    JOIN params AS p ON p.rule = 'rebalance_share' AND p.name = 'share'
        AND p.host = r.host AND p.container = r.container AND p.resource = r.resource
    CROSS JOIN parameters AS q
    LEFT JOIN state AS s ON s.host = r.host AND s.container = r.container AND s.resource = r.resource
    WHERE r.resource = 'cpu' AND r.allocated > 0 AND r.age < 5
),
wishes AS (
    SELECT *, CASE WHEN wants THEN greatest(least(more, room), 0.0) ELSE 0.0 END AS wish FROM members
),
sums AS (
    SELECT *, sum(wish) OVER (PARTITION BY host, app) AS wished, sum(missing) OVER (PARTITION BY host, app) AS owed,
           pool - sum(greatest(coalesce(asked - allocated, 0.0), 0.0)) OVER (PARTITION BY host, app) AS free
    FROM wishes
),
grants AS (
    SELECT *, CASE WHEN free <= 0.001 THEN 0.0
                   WHEN wished > 0 THEN wish * least(free / wished, 1.0)
                   ELSE coalesce(missing * least(free / nullif(owed, 0.0), 1.0), 0.0) END AS granted
    FROM sums
)
SELECT host, container, resource, CASE WHEN granted > 0.001 THEN allocated + granted END AS target,
       CASE WHEN wished > 0
            THEN concat('it uses ', round(usage, 2), ' of its ', round(allocated, 2), ' cores, and others of ', app, ' gave ',
                        round(free, 2))
            ELSE concat('nobody of ', app, ' needs the ', round(free, 2), ' cores that were given') END AS reason,
       CASE WHEN granted > 0.001 THEN allocated + granted ELSE asked END AS asked,
       CASE WHEN granted > 0.001 THEN date_part('epoch', now()) ELSE asked_at END AS asked_at
FROM grants;
