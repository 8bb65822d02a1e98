"""The ledger of bytes: what each upload and each job takes or may take, for all API processes.

It is kept in Redis, so that processes reserve bytes atomically. An entry begins when an upload
does. It has a lease, by Redis' clock, until a count of the store has seen its job: what a process
that died had reserved is given back. From then on the counts of the store update it.

The ledger is used only while it is complete: after this process has counted the store once, and
once for each Redis server that was started, because that may have lost data.

Videos that several jobs and uploads share have entries of their own; see `service.entries`.

Keys:
    rollout:bytes            hash: job id → "own shared pending owner", see `Entry`
    rollout:bytes:sums       hash: "shared", "pending", "owner:<name>" → sum over all entries
    rollout:bytes:leases     sorted set: job id → Unix time at which an entry expires
    rollout:bytes:counted    run id of the Redis server for which the ledger is complete
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from threading import Event, Lock
from typing import Literal, NamedTuple, Self, cast

from redis import Redis

ENTRIES_KEY = "rollout:bytes"
SUMS_KEY = "rollout:bytes:sums"
LEASES_KEY = "rollout:bytes:leases"
COUNTED_KEY = "rollout:bytes:counted"

LEASE_SECONDS = 20
"""An upload's entry expires this long after its process renewed it last."""

ACCEPTED_SECONDS = 120
"""Lease of a job that was accepted: many times the interval between two counts of the store."""

COMPARE_SECONDS = 300.0
"""Time between two comparisons of the whole ledger with the store; other counts send changes."""

BATCH = 500
"""Entries written per call: Redis is blocked for a few milliseconds each time."""

RESULT_FACTOR = 20
"""Bytes of a result per byte of a small upload, at most: mainly of its overlay."""

MIN_RESULT_BYTES = 1024**2
MAX_SMALL_RESULT_BYTES = 64 * 1024**2
"""Up to here `RESULT_FACTOR` holds. The result of a larger upload is no larger than the upload."""


class Entry(NamedTuple):
    """Bytes of one upload or job.

    Attributes:
        own: bytes that count for the quota of the owner.
        shared: bytes that count for the limit of the store: `own`, and room for the result.
        pending: those of `shared` that are not on the disk yet.
    """

    own: int
    shared: int
    pending: int
    owner: str | None

    @classmethod
    def of_upload(cls, owner: str | None, upload_bytes: int, written: int) -> Self:
        """Return the entry of an upload, or of a job that has not ended.

        Args:
            upload_bytes: its size, as far as it is known.
            written: bytes on the disk, with those of an attempt.
        """
        expected = upload_bytes + result_bytes(upload_bytes)
        return cls(max(upload_bytes, written), max(expected, written), expected - written, owner)

    @classmethod
    def of_video(cls, owner: str | None, video_bytes: int, written: int) -> Self:
        """Return the entry of an upload without a job.

        Args:
            video_bytes: its size, as far as it is known.
            written: bytes on the disk.
        """
        total = max(video_bytes, written)
        return cls(total, total, total - written, owner)

    @classmethod
    def of_result(cls, owner: str | None, upload_bytes: int, written: int) -> Self:
        """Return the entry of a job that has not ended, and whose video counts apart.

        Args:
            upload_bytes: size of the video.
            written: bytes on the disk that are the job's alone.
        """
        expected = result_bytes(upload_bytes)
        return cls(written, max(expected, written), expected - written, owner)

    @classmethod
    def of_files(cls, owner: str | None, stored: int) -> Self:
        """Return the entry of a job that writes no more."""
        return cls(stored, stored, 0, owner)

    def fields(self) -> tuple[int, int, int, str]:
        """Return the entry as the scripts take it."""
        return self.own, self.shared, max(0, self.pending), self.owner or ""

    def text(self) -> bytes:
        """Return the entry as it stands in Redis."""
        return "{} {} {} {}".format(*self.fields()).encode()


class Limits(NamedTuple):
    """The most that the sums of an entry's owner, of the store and of the disk may be."""

    own: int | None
    shared: int | None
    pending: int | None


class Refusal(NamedTuple):
    """Why bytes were not reserved.

    Attributes:
        limit: the limit that would be exceeded; "counted": the ledger is not complete.
        held: the sum without the entry.
    """

    limit: Literal["own", "shared", "pending", "counted"]
    held: int


class Held(NamedTuple):
    """The sums over all entries; see `Entry`."""

    shared: int
    pending: int


def result_bytes(upload_bytes: int) -> int:
    """Return the room that is reserved for the result of an upload: an estimate."""
    small = min(max(RESULT_FACTOR * upload_bytes, MIN_RESULT_BYTES), MAX_SMALL_RESULT_BYTES)
    return max(small, upload_bytes)


class Ledger:
    """The ledger in one Redis, as one process sees it."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._reserve = redis.register_script(RESERVE)
        self._write = redis.register_script(WRITE)
        self._unsure: set[str] = set()  # keys that Redis may have wrongly
        self._lock = Lock()
        self._compared_at = 0.0
        self._counted = Event()

    def reserve(
        self, job_id: str, entry: Entry, limits: Limits, *, lease_seconds: int = LEASE_SECONDS
    ) -> Refusal | None:
        """Write an entry unless it would exceed a limit; an entry may always become smaller.

        Returns:
            None if it was written.
        """
        if not self._counted.is_set():
            self._redis.ping()
            return Refusal("counted", 0)
        known = ("" if limit is None else limit for limit in limits)
        arguments = (job_id, *entry.fields(), lease_seconds, *known)
        limit, held = cast("list[bytes]", self._reserve(KEYS, arguments))
        return Refusal(limit.decode(), int(held)) if limit else None  # type: ignore[arg-type]

    def renew(self, entries: Mapping[str, Entry]) -> None:
        """Renew the leases of entries; write those that Redis has lost."""
        self._send((job_id, *entry.fields(), LEASE_SECONDS) for job_id, entry in entries.items())

    def remove(self, *job_ids: str) -> None:
        """Remove entries. The next `update` writes those again that are still in the store."""
        with self._lock:
            self._unsure.update(job_ids)
        self._remove(job_ids)

    def update(self, entries: Mapping[str, Entry], changed: Collection[str] | None = None) -> None:
        """Bring the ledger in line with a count of the store.

        Args:
            entries: those of all jobs. Entries of other jobs are removed unless they have a lease.
            changed: keys of entries that are new, differ or are gone since the last call. Default:
                each entry may differ.
        """
        with self._lock:
            unsure, self._unsure = self._unsure | set(changed or ()), set()
        try:
            self._update(entries, None if changed is None else unsure)
        except BaseException:
            with self._lock:
                self._unsure |= unsure
            raise
        self._counted.set()

    def held(self) -> Held:
        """Return what the store holds, and may hold."""
        sums = cast("list[bytes | None]", self._redis.hmget(SUMS_KEY, *Held._fields))
        return Held(*(int(text or 0) for text in sums))

    def wait_for_count(self, seconds: float) -> bool:
        """Wait until this process has counted the store once; return whether it has."""
        return self._counted.wait(seconds)

    def _update(self, entries: Mapping[str, Entry], keys: set[str] | None) -> None:
        run_id = cast("dict[str, str]", self._redis.info("server"))["run_id"]
        is_complete = self._redis.get(COUNTED_KEY) == run_id.encode()
        has_counted = self._counted.is_set() and is_complete
        if keys is None or not has_counted or self._is_comparison_due():
            compared_at = self._clock()
            changed, gone = self._compare(dict(entries))
        else:
            compared_at = self._compared_at
            changed = {key: entry for key in keys if (entry := entries.get(key))}
            gone = keys - changed.keys()
        self._send((job_id, *entry.fields(), "") for job_id, entry in changed.items())
        self._remove(gone)
        self._compared_at = compared_at
        if not is_complete:
            self._redis.set(COUNTED_KEY, run_id)

    def _is_comparison_due(self) -> bool:
        return self._clock() - self._compared_at > COMPARE_SECONDS

    def _compare(self, entries: Mapping[str, Entry]) -> tuple[dict[str, Entry], set[str]]:
        """Return the entries that differ in Redis, and the jobs whose entries must be removed."""
        stored = cast("dict[bytes, bytes]", self._redis.hgetall(ENTRIES_KEY))
        leased = set(cast("list[bytes]", self._redis.zrange(LEASES_KEY, 0, -1)))
        changed = {
            job_id: entry
            for job_id, entry in entries.items()
            if stored.get(job_id.encode()) != entry.text() or job_id.encode() in leased
        }
        gone = {job_id.decode() for job_id in stored.keys() - leased} - entries.keys()
        return changed, gone

    def _remove(self, job_ids: Iterable[str]) -> None:
        self._send((job_id, "", "", "", "", "") for job_id in job_ids)

    def _send(self, rows: Iterable[tuple[str | int, ...]]) -> None:
        waiting = list(rows)
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            self._write(KEYS, [field for row in batch for field in row])


KEYS = (ENTRIES_KEY, SUMS_KEY, LEASES_KEY, COUNTED_KEY)

_COMMON = f"""
local now = tonumber(redis.call('TIME')[1])

local function add(field, number)
  if number ~= 0 and redis.call('HINCRBY', KEYS[2], field, string.format('%.0f', number)) == 0 then
    redis.call('HDEL', KEYS[2], field)
  end
end

local function read(id)
  local entry = redis.call('HGET', KEYS[1], id)
  if not entry then return 0, 0, 0, nil end
  local own, shared, pending, owner = string.match(entry, '^(%d+) (%d+) (%d+) (.*)$')
  return tonumber(own), tonumber(shared), tonumber(pending), owner
end

local function write(id, own, shared, pending, owner)
  local old_own, old_shared, old_pending, old_owner = read(id)
  if old_owner then add('owner:' .. old_owner, -old_own) end
  add('shared', (tonumber(shared) or 0) - old_shared)
  add('pending', (tonumber(pending) or 0) - old_pending)
  if own == '' then
    redis.call('HDEL', KEYS[1], id)
  else
    add('owner:' .. owner, tonumber(own))
    redis.call('HSET', KEYS[1], id, own .. ' ' .. shared .. ' ' .. pending .. ' ' .. owner)
  end
end

local function lease(id, seconds)
  local old = tonumber(redis.call('ZSCORE', KEYS[3], id)) or 0
  redis.call('ZADD', KEYS[3], math.max(old, now + seconds), id)
end

local function expire()
  local late = '(' .. (now + {ACCEPTED_SECONDS})  -- Redis' clock was set back
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], late, '+inf', 'LIMIT', 0, 1000)) do
    redis.call('ZADD', KEYS[3], now + {LEASE_SECONDS}, id)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1000)) do
    write(id, '')
    redis.call('ZREM', KEYS[3], id)
  end
end
"""

RESERVE = (
    _COMMON
    + """
local id, own, shared, pending, owner, seconds = unpack(ARGV, 1, 6)
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if redis.call('GET', KEYS[4]) ~= run_id then return {'counted', '0'} end
expire()
local old_own, old_shared, old_pending, old_owner = read(id)

local function exceeds(field, old, new, limit)
  local held = (tonumber(redis.call('HGET', KEYS[2], field)) or 0) - old
  local grows = not old_owner or tonumber(new) > old
  return limit ~= '' and grows and held + tonumber(new) > tonumber(limit), held
end

for _, check in ipairs({
  {'own', 'owner:' .. owner, old_own, own, ARGV[7]},
  {'shared', 'shared', old_shared, shared, ARGV[8]},
  {'pending', 'pending', old_pending, pending, ARGV[9]},
}) do
  local is_over, held = exceeds(unpack(check, 2))
  if is_over then return {check[1], string.format('%.0f', held)} end
end
write(id, own, shared, pending, owner)
lease(id, tonumber(seconds))
return {'', '0'}
"""
)
"""Arguments: id, own, shared, pending, owner, lease in seconds; the three limits, '' being none.

Returns the limit that would be exceeded, or '', and the sum without the entry.
"""

WRITE = (
    _COMMON
    + """
for i = 1, #ARGV, 6 do
  local id, own, shared, pending, owner, seconds = unpack(ARGV, i, i + 5)
  if seconds == '' then
    write(id, own, shared, pending, owner)
    redis.call('ZREM', KEYS[3], id)
  elseif redis.call('HEXISTS', KEYS[1], id) == 0 then
    write(id, own, shared, pending, owner)
    lease(id, tonumber(seconds))
  elseif redis.call('ZSCORE', KEYS[3], id) then
    lease(id, tonumber(seconds))
  end
end
"""
)
"""Arguments: id, own, shared, pending, owner, lease in seconds for each entry.

Without a lease the entry is written, or removed if `own` is ''. With one, only an entry that is
missing is written, and only an entry that has a lease gets a longer one.
"""
