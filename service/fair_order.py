"""The order of the jobs that wait for a model: fair among owners.

RQ delivers from the front of a list. A script in Redis sorts that list whenever a job is queued:

- Each waiting job gets a turn: the number of its owner's jobs that run or wait before it. Jobs go
  by turn, so that owners alternate, and an owner with jobs that run goes after one without.
- Within an owner, and among jobs of one turn, the order stays as it is: first come, first served.
- Jobs of low priority go after all others, for `LOW_SECONDS` at most.

What is known of a job is kept in a hash beside the list. A job without an entry, such as one that
an earlier release has queued, counts as one of no owner, until `tidy` makes the entry.
"""

from collections.abc import Mapping
from typing import Literal, cast

from redis import Redis
from redis.client import Pipeline
from rq import Queue

from rollout_core.contract import Priority
from rollout_core.jobs.records import Ticket

ORDER_KEY = "rollout:order:"
"""A Redis hash for each queue: id of a job → `low_until:owner`, in Unix seconds, 0 if never."""

ORDER_SECONDS = 86400
"""The hash expires this long after the queue was last sorted, which happens while it has jobs."""

LOW_SECONDS = 3600
"""A job of low priority lets others pass for this long."""

SORT = """
local waiting_key, taken_key, started_key, order_key = unpack(KEYS)
local now = tonumber(redis.call('TIME')[1])
local low_until, owner_of, turns = {}, {}, {}

redis.call('EXPIRE', order_key, ARGV[1])
if ARGV[2] == 'sort' and redis.call('LLEN', waiting_key) < 2 then return {{}, {}} end
local entries = redis.call('HGETALL', order_key)
for i = 1, #entries, 2 do
    local job, seconds, owner = entries[i], string.match(entries[i + 1], '^(%d+):(.*)$')
    low_until[job], owner_of[job] = tonumber(seconds), owner
end

local running = {}
for _, job in ipairs(redis.call('LRANGE', taken_key, 0, -1)) do running[job] = true end
for _, member in ipairs(redis.call('ZRANGE', started_key, 0, -1)) do
    running[string.match(member, '^[^:]*')] = true
end
for job in pairs(running) do
    local owner = owner_of[job] or ''
    turns[owner] = (turns[owner] or 0) + 1
end

local waiting, jobs = redis.call('LRANGE', waiting_key, 0, -1), {}
for place, job in ipairs(waiting) do
    jobs[place] = {id = job, place = place, is_low = (low_until[job] or 0) > now}
end
for _, is_low in ipairs({false, true}) do
    for _, job in ipairs(jobs) do
        if job.is_low == is_low then
            local owner = owner_of[job.id] or ''
            job.turn = turns[owner] or 0
            turns[owner] = job.turn + 1
        end
    end
end

table.sort(jobs, function(a, b)
    if a.is_low ~= b.is_low then return b.is_low end
    if a.turn ~= b.turn then return a.turn < b.turn end
    return a.place < b.place
end)

local changed = false
for place, job in ipairs(jobs) do changed = changed or job.place ~= place end
if changed then
    redis.call('DEL', waiting_key)
    for first = 1, #jobs, 1000 do
        local ids = {}
        for place = first, math.min(first + 999, #jobs) do ids[#ids + 1] = jobs[place].id end
        redis.call('RPUSH', waiting_key, unpack(ids))
    end
end

local unknown, others = {}, {}
for _, job in ipairs(waiting) do
    running[job] = true
    if not owner_of[job] then unknown[#unknown + 1] = job end
end
for job in pairs(owner_of) do
    if not running[job] then others[#others + 1] = job end
end
return {unknown, others}
"""
"""Sorts a list.

Returns the jobs that wait and have no entry, and those with an entry that neither wait nor run.
Keys: of RQ, the jobs that wait, were taken, were started; and the hash of entries. Arguments: the
seconds after which the hash expires; and "tidy", or "sort" if what it returns is not needed. Then a
list of one job costs nothing more, however many jobs run.
"""


class FairOrder:
    """Keeps the queues of one Redis in a fair order."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def place(self, pipeline: Pipeline, queue: Queue, ticket: Ticket, priority: Priority) -> None:
        """Sort a queue to which the pipeline has added a job, in the same transaction."""
        created = int(ticket.created_at.timestamp())
        low_until = created + LOW_SECONDS if priority == "low" else 0
        pipeline.hset(ORDER_KEY + queue.name, ticket.id, f"{low_until}:{ticket.owner or ''}")
        self.sort(queue, pipeline)

    def tidy(self, queue: Queue, open_jobs: Mapping[str, Ticket]) -> None:
        """Sort a queue, since jobs have ended or waited long enough.

        Forget jobs that ended, and note those that another release has queued.
        """
        unknown, others = cast("list[list[bytes]]", self._eval(queue, self._redis, "tidy"))
        ended = [job_id for job_id in others if job_id.decode() not in open_jobs]
        if ended:
            self._redis.hdel(ORDER_KEY + queue.name, *ended)
        tickets = [open_jobs[job] for item in unknown if (job := item.decode()) in open_jobs]
        if tickets:
            entries = [text for item in tickets for text in (item.id, f"0:{item.owner or ''}")]
            self._redis.hset(ORDER_KEY + queue.name, items=entries)
            self.sort(queue, self._redis)

    def sort(self, queue: Queue, connection: Redis) -> None:
        """Sort a queue, or let a pipeline sort it."""
        self._eval(queue, connection, "sort")

    def waiting_of(self, queue: Queue, owner: str | None) -> int:
        """Return the number of an owner's jobs that wait in a queue."""
        raw = cast("dict[bytes, bytes]", self._redis.hgetall(ORDER_KEY + queue.name))
        owners = {job_id.decode(): raw[job_id].decode().partition(":")[2] for job_id in raw}
        return sum(owners.get(job_id, "") == (owner or "") for job_id in queue.get_job_ids())

    def _eval(self, queue: Queue, connection: Redis, purpose: Literal["sort", "tidy"]) -> object:
        keys = (
            queue.key,
            queue.intermediate_queue_key,
            queue.started_job_registry.key,
            ORDER_KEY + queue.name,
        )
        return connection.eval(SORT, len(keys), *keys, ORDER_SECONDS, purpose)
