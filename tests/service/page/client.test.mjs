import assert from "node:assert/strict"
import { execFile } from "node:child_process"
import { copyFile, mkdtemp, rm } from "node:fs/promises"
import { createServer } from "node:http"
import { once } from "node:events"
import { tmpdir } from "node:os"
import path from "node:path"
import { before, test } from "node:test"
import { promisify } from "node:util"

import * as client from "../../../service/page/static/api/client.js"
import { followJob } from "../../../service/page/static/api/follow.js"
import { loadExploration } from "../../../service/page/static/data/exploration.js"
import { curlLines, DEFAULTS, explorationRequest, pythonLines } from "../../../service/page/static/data/requests.js"
import { setBase, values } from "./files.mjs"
import { jobOf, openPage, proxy } from "./service.mjs"

const run = promisify(execFile)

before(openPage)

async function ended(request, name) {
    return followJob((await jobOf(request, name)).id, () => {})
}

async function movingShapes() {
    return (await client.listModels()).find(({ name }) => name === "moving-things")
}

test("an exploration of a real job has all that the view needs", async () => {
    const job = await ended(explorationRequest(await movingShapes()))

    const exploration = await loadExploration(job)

    assert.equal(job.state, "succeeded")
    assert.equal(exploration.frames.length, 8)
    assert.equal(exploration.layers, 4)
    assert.equal(exploration.hasFullRollout, true)
    assert.equal((await fetch(exploration.previewUrl)).headers.get("content-type"), "video/mp4")
    assert.equal((await fetch(exploration.thumbnails.url)).status, 200)
    for (const { index } of exploration.frames) assert.ok(exploration.thumbnails.placeOf.has(index))
    const { heat } = await exploration.patchHeat({ frame: 2, row: 3, column: 4 })
    assert.equal(Math.max(...heat), 1)
})

test("a full rollout is asked for where the service makes one", async () => {
    const model = await movingShapes()
    const large = { name: "large", spec: { ...model.spec, frames: 96, height: 224, width: 224, patch_height: 16, patch_width: 16 } }

    assert.equal(explorationRequest(model, { method: "gradient_rollout", target: "a thing moves left" }).full_rollout, true)
    assert.equal(explorationRequest(model, { method: "attention" }).full_rollout, undefined)
    assert.equal(explorationRequest(model, { clips: "tile" }).full_rollout, undefined)
    assert.equal(explorationRequest(large).full_rollout, undefined)
    assert.deepEqual(explorationRequest(large, { preview: false }), { model: "large", per_layer: true, preview: false })
    for (const method of ["rollout", "attention", "gradient_rollout", "contribution_rollout", "difference"]) {
        assert.equal((await ended(explorationRequest(model, { method }))).state, "succeeded", method)
    }
    const ofClasses = explorationRequest(model, { method: "contribution_rollout", target: [1, "predicted"] })
    assert.equal((await ended(ofClasses)).state, "succeeded")
})

test("the defaults are those of the service", () => {
    const { model, ...others } = values.defaults

    assert.equal(model, null)
    assert.deepEqual(DEFAULTS, others)
})

test("the lines for curl and Python make the very result, also of a file with a hostile name", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "lines-"))
    const environment = { ...process.env, PYTHONPATH: values.root }
    try {
        for (const [row, name] of ["plain.mp4", "-", `it's "a" $(touch x);b,ü #1 \`.mp4`].entries()) {
            const query = { frame: 1, row, column: 3 }
            const job = await ended({ model: "fake", method: "attention", layer: 1, query, overlay: null }, name)
            assert.equal(job.filename, name)
            await copyFile(values.sample, path.join(folder, name))

            const { stdout } = await run("sh", ["-c", curlLines(job)], { cwd: folder })
            const program = `${pythonLines(job)}print(job.reused_from)`
            const python = await run(values.python, ["-c", program], { cwd: folder, env: environment })

            assert.equal(JSON.parse(stdout).reused_from, job.id, curlLines(job))
            assert.equal(python.stdout.trim(), job.id, program)
        }
    } finally {
        await rm(folder, { recursive: true })
    }
})

test("the lines name the key, where there are keys", async () => {
    const job = await jobOf({ model: "fake" })

    assert.match(curlLines(job, { withKey: true }), /-H "Authorization: Bearer \$ROLLOUT_API_KEY"/)
    assert.match(pythonLines(job, { withKey: true }), /ROLLOUT_API_KEY/)
    assert.doesNotMatch(curlLines(job) + pythonLines(job), /ROLLOUT_API_KEY/)
})

test("a job whose answer was lost is made once", async () => {
    let lost = 0
    const { id, upload } = await jobOf({ model: "fake" })
    const broken = await proxy({
        onAnswer(bytes, connection) {
            if (lost > 0) return true
            lost += 1
            connection.cut()
            return false
        },
    })
    setBase(broken.url)
    try {
        const job = await client.createJob({ upload, model: "fake", reuse: false, tag: "lost" })

        const { jobs } = await client.listJobs({ limit: 200 })
        assert.equal(lost, 1)
        assert.notEqual(job.id, id)
        assert.equal(jobs.filter(({ tag }) => tag === "lost").length, 1)
    } finally {
        setBase(values.url)
        broken.close()
    }
})

test("jobs are listed newest first, by page, and can be canceled and deleted", async () => {
    const first = await jobOf({ model: "fake" })
    const second = await jobOf({ model: "fake", fake: { seconds: 60 } })

    const page = await client.listJobs({ limit: 1 })
    const next = await client.listJobs({ limit: 1, cursor: page.next_cursor })

    assert.deepEqual([page.jobs[0].id, next.jobs[0].id], [second.id, first.id])
    await client.cancelJob(second.id)
    assert.equal((await followJob(second.id, () => {})).state, "canceled")
    assert.equal(await client.deleteJob(second.id), null)
    await assert.rejects(client.getJob(second.id), { status: 404, code: "job_not_found", sentence: /does not exist any more/ })
})

test("a refusal has the sentence, the code and the detail", async () => {
    const refused = client.createJob({ upload: "0".repeat(32), metod: "rollout" })

    await assert.rejects(refused, (problem) => {
        assert.ok(problem instanceof client.Problem)
        assert.equal(problem.code, "invalid_request")
        assert.match(problem.sentence, /^This cannot be done: .*did you mean method.*\.$/)
        return true
    })
})

test("a service that does not answer is offline", async () => {
    const gone = await proxy()
    gone.close()
    setBase(gone.url)
    try {
        await assert.rejects(client.listModels(), { offline: true, sentence: /does not answer/ })
    } finally {
        setBase(values.url)
    }
})

test("a page of something else is not taken as an answer", async () => {
    const server = createServer((_, response) => response.end("<html>Please log in</html>"))
    server.listen(0, "127.0.0.1")
    await once(server, "listening")
    setBase(`http://127.0.0.1:${server.address().port}/`)
    try {
        await assert.rejects(client.listModels(), { code: "unexpected_answer", offline: false })
    } finally {
        setBase(values.url)
        server.close()
        server.closeAllConnections()
    }
})

test("a call ends with its signal", async () => {
    const leaving = new AbortController()
    leaving.abort()

    await assert.rejects(client.listModels({ signal: leaving.signal }), { name: "AbortError" })
})

test("the service may live below a path", () => {
    setBase("https://example.org/rollout/#/jobs/x?t=1")

    assert.equal(client.artifactUrl("j", "a b.npz"), "https://example.org/rollout/v1/jobs/j/artifacts/a%20b.npz")
    setBase(values.url)
})
