import assert from "node:assert/strict"
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises"
import { openAsBlob } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { beforeEach, test } from "node:test"

import { call } from "../../../service/page/static/api/client.js"
import { removeUpload, uploadVideo } from "../../../service/page/static/api/upload.js"
import { setBase, values } from "./files.mjs"
import { openPage, proxy, sender } from "./service.mjs"

const MIB = 1024 * 1024
const START = Buffer.from("\0\0\0\x18ftypisom", "latin1")

beforeEach(openPage)

let made = 0

/** A file that begins as an MP4 does, different from all others. */
function file(bytes, name = "video.mp4") {
    made += 1
    const content = Buffer.alloc(bytes, `${process.pid} ${made} `)
    START.copy(content)
    return new File([content], name, { lastModified: 1000 + made })
}

/** Send a file; return the upload, its calls and its progress. */
async function send(video, options = {}) {
    const calls = []
    const progress = []
    const connections = []
    const id = await uploadVideo(video, {
        send: sender(calls),
        ...options,
        onProgress(sent, total) {
            assert.equal(total, video.size)
            progress.push(sent)
            options.onProgress?.(sent)
        },
        onConnection: (up) => connections.push(up),
    })
    return { upload: await call(`v1/uploads/${id}`), calls, progress, connections }
}

test("a file is sent in parts of 8 MiB", async () => {
    const video = file(20 * MIB + 1, "clip ä 🎬.mp4")

    const { upload, calls, progress, connections } = await send(video)

    assert.deepEqual(calls, ["POST 201", "PATCH 204", "PATCH 204", "PATCH 204"])
    assert.equal(upload.state, "complete")
    assert.equal(upload.filename, "clip ä 🎬.mp4")
    assert.equal(upload.bytes, video.size)
    assert.equal(progress[0], 0)
    assert.equal(progress.at(-1), video.size)
    assert.deepEqual(progress, [...progress].sort((a, b) => a - b))
    assert.deepEqual(connections, [])
})

test("a killed connection goes on where it stopped", async () => {
    let passed = 0
    let cuts = 0
    const breaking = await proxy({
        onRequest(bytes, connection) {
            passed += bytes.length
            if (cuts > 0 || passed < 12 * MIB) return true
            cuts += 1
            connection.cut()
            return false
        },
    })
    setBase(breaking.url)
    try {
        const video = file(20 * MIB)

        const { upload, calls, progress } = await send(video)

        assert.equal(cuts, 1)
        assert.deepEqual(calls.slice(0, 4), ["POST 201", "PATCH 204", "PATCH 0", "HEAD 200"])
        assert.equal(upload.bytes, video.size)
        // All that had passed was kept, but for what was on its way.
        assert.ok(passed < video.size + 4 * MIB, `${passed} bytes were sent`)
        assert.ok(progress.some((sent) => sent > 8 * MIB && sent < 16 * MIB))
    } finally {
        breaking.close()
    }
})

test("an upload goes on after a reload of the page", async () => {
    const video = file(20 * MIB)
    const leaving = new AbortController()
    const first = send(video, {
        signal: leaving.signal,
        onProgress: (sent) => sent >= 8 * MIB && leaving.abort(),
    })
    await assert.rejects(first, { name: "AbortError" })

    // A page that was loaded anew has the file again, by a new choice, and what localStorage kept.
    const again = new File([video], video.name, { lastModified: video.lastModified })
    const { upload, calls, progress } = await send(again)

    assert.deepEqual(calls, ["HEAD 200", "PATCH 204", "PATCH 204"])
    assert.equal(progress[0], 8 * MIB)
    assert.equal(upload.bytes, video.size)
})

test("a file that was sent before needs no byte", async () => {
    const video = file(MIB)
    const first = await send(video)

    const again = await send(video)

    assert.deepEqual(again.calls, ["HEAD 200"])
    assert.equal(again.upload.id, first.upload.id)
})

test("another file, or one that has changed, is an upload of its own", async () => {
    const video = file(MIB)
    const first = await send(video)
    const changed = new File([video], video.name, { lastModified: video.lastModified + 1 })

    const { upload, calls } = await send(changed)

    assert.deepEqual(calls, ["POST 201", "PATCH 204"])
    assert.notEqual(upload.id, first.upload.id)
})

test("an upload that the service has no more begins anew", async () => {
    const video = file(MIB)
    const first = await send(video)
    await call(`v1/uploads/${first.upload.id}`, { method: "DELETE" })

    const { upload, calls } = await send(video)

    assert.deepEqual(calls, ["HEAD 404", "POST 201", "PATCH 204"])
    assert.equal(upload.state, "complete")
})

test("what is not wanted any more is removed", async () => {
    const video = file(MIB)
    const { upload } = await send(video)

    await removeUpload(video, { send: sender() })

    await assert.rejects(call(`v1/uploads/${upload.id}`), { code: "upload_not_found" })
    assert.deepEqual((await send(video)).calls, ["POST 201", "PATCH 204"])
})

test("a file that is no video is refused by a sentence, and not sent again and again", async () => {
    const calls = []
    const text = new File(["This is a letter. ".repeat(400)], "letter.mp4")

    const refused = uploadVideo(text, { send: sender(calls) })

    await assert.rejects(refused, { status: 415, code: "video_container_unsupported", sentence: /Use MP4/ })
    assert.deepEqual(calls, ["POST 201", "PATCH 415"])
})

test("an empty file is refused before it is sent", async () => {
    await assert.rejects(uploadVideo(new File([], "empty.mp4")), { code: "upload_empty" })
})

test("a file that changed after it was chosen is refused", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "changed-"))
    try {
        const name = path.join(folder, "video.mp4")
        await writeFile(name, START)
        const blob = await openAsBlob(name)
        await truncate(name, 4)
        Object.assign(blob, { name: "video.mp4", lastModified: 5 })

        await assert.rejects(uploadVideo(blob, { send: sender() }), { sentence: "The file cannot be read any more. Choose it again." })
    } finally {
        await rm(folder, { recursive: true })
    }
})

test("a browser that stores nothing can still send", async () => {
    globalThis.localStorage = undefined

    assert.equal((await send(file(MIB))).upload.state, "complete")
})

// The last test: it kills the service, which is started again after a second.
test("an upload goes on after a restart of the service", async () => {
    let passed = 0
    let killed = false
    const watching = await proxy({
        onRequest(bytes) {
            passed += bytes.length
            if (killed || passed < 12 * MIB) return
            killed = true
            process.kill(values.pid, "SIGKILL")
        },
    })
    setBase(watching.url)
    try {
        const video = file(20 * MIB)

        const { upload, calls, connections } = await send(video)

        assert.ok(killed)
        assert.equal(upload.bytes, video.size)
        assert.ok(calls.includes("PATCH 0") && calls.includes("HEAD 200"))
        assert.deepEqual(connections, connections.length ? [false, true] : [])
    } finally {
        watching.close()
    }
})
