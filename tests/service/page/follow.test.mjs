import assert from "node:assert/strict"
import { before, beforeEach, test } from "node:test"

import { deleteJob, failureSentence } from "../../../service/page/static/api/client.js"
import { followJob } from "../../../service/page/static/api/follow.js"
import { setBase, values } from "./files.mjs"
import { jobOf, openPage, proxy } from "./service.mjs"

const BrowserEventSource = globalThis.EventSource

before(openPage)

beforeEach(() => {
    globalThis.EventSource = BrowserEventSource
    setBase(values.url)
})

function fake(script) {
    return jobOf({ model: "fake", fake: script })
}

/** Follow a job; return the ended one, and what was told of it. */
async function follow(id, options = {}) {
    const heard = []
    const connections = []
    const job = await followJob(
        id,
        (told) => {
            heard.push(told)
            options.onJob?.(told)
        },
        { signal: options.signal, onConnection: (up) => connections.push(up) },
    )
    return { job, heard, connections }
}

test("a job is told from its start to its end, with its progress", async () => {
    const { job, heard, connections } = await follow((await fake({ seconds: 0.2 })).id)

    assert.equal(job.state, "succeeded")
    assert.equal(heard.at(-1), job)
    assert.ok(heard.some(({ state, progress }) => state === "running" && progress?.total > 0))
    assert.deepEqual(connections, [])
})

test("a job that has ended is told at once", async () => {
    const { id } = await fake({})
    await follow(id)

    const { heard } = await follow(id)

    assert.deepEqual(heard.map(({ state }) => state), ["succeeded"])
})

test("a failed job is told by a sentence", async () => {
    const { job } = await follow((await fake({ fail: "video_undecodable" })).id)

    assert.equal(job.state, "failed")
    assert.match(failureSentence(job.error), /cannot be decoded/)
})

test("without event streams the job is polled", async () => {
    delete globalThis.EventSource

    const { job } = await follow((await fake({ seconds: 0.2 })).id)

    assert.equal(job.state, "succeeded")
})

test("the job is polled where a proxy holds the stream back", async () => {
    const { id } = await fake({ seconds: 4 })
    const streams = new WeakSet()
    let held = 0
    const holding = await proxy({
        onRequest(bytes, connection) {
            if (bytes.includes("/events")) streams.add(connection)
            else streams.delete(connection)
        },
        onAnswer(bytes, connection) {
            held += streams.has(connection) ? 1 : 0
            return !streams.has(connection)
        },
    })
    setBase(holding.url)
    try {
        const { job } = await follow(id)

        assert.equal(job.state, "succeeded")
        assert.ok(held > 0)
    } finally {
        holding.close()
    }
})

test("a stream that breaks is opened again", async () => {
    const { id } = await fake({ seconds: 2 })
    let cuts = 0
    const breaking = await proxy({
        onAnswer(bytes, connection) {
            if (cuts > 0 || !bytes.includes("event: state")) return true
            cuts += 1
            setImmediate(() => connection.cut())
            return true
        },
    })
    setBase(breaking.url)
    try {
        const { job, connections } = await follow(id)

        assert.equal(job.state, "succeeded")
        assert.equal(cuts, 1)
        assert.deepEqual(connections, [])
    } finally {
        breaking.close()
    }
})

test("a job that is deleted meanwhile is told as such", async () => {
    const { id } = await fake({ seconds: 60 })
    let deleted

    await assert.rejects(
        follow(id, { onJob: ({ state }) => (deleted ??= state === "running" ? deleteJob(id) : undefined) }),
        { code: "job_not_found" },
    )
    await deleted
})

test("following ends with its signal, also while it listens", async () => {
    const { id } = await fake({ seconds: 60 })
    const leaving = new AbortController()

    const following = follow(id, { signal: leaving.signal, onJob: ({ state }) => state === "running" && leaving.abort() })

    await assert.rejects(following, { name: "AbortError" })
    await deleteJob(id)
})

// The last test: it kills the service, which is started again after a second.
test("a service that goes and comes back is told, and the job goes on", async () => {
    const { id } = await fake({ seconds: 2 })
    let killed = false

    const { job, connections } = await follow(id, {
        onJob({ state }) {
            if (killed || state !== "running") return
            killed = true
            process.kill(values.pid, "SIGKILL")
        },
    })

    assert.equal(job.state, "succeeded")
    assert.deepEqual(connections, [false, true])
})
