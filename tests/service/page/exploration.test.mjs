import assert from "node:assert/strict"
import { readFile } from "node:fs/promises"
import path from "node:path"
import { after, before, test } from "node:test"

import { loadExploration } from "../../../service/page/static/data/exploration.js"
import { heatAt } from "../../../service/page/static/data/heat.js"
import { assertClose, expectedOf, serveFiles, setBase, values } from "./files.mjs"

let files

before(async () => {
    files = await serveFiles(values.folder)
    setBase(`${files.url}#/jobs/somewhere`)
})

after(() => files.close())

async function jobOf(name) {
    const result = JSON.parse(await readFile(path.join(values.folder, name, "result.json"), "utf8"))
    return { id: name, state: "succeeded", request: result.request, result }
}

async function load(name, changes = {}) {
    return loadExploration({ ...(await jobOf(name)), ...changes })
}

function assertTrack(track, expected, tolerance = 1e-6) {
    assertClose(track.times, expected.times, 0)
    assertClose(track.shares, expected.shares, tolerance)
    assertClose(track.heat, expected.heat, tolerance)
    for (const { seconds, map } of expected.at) assertClose(heatAt(track, seconds), map, tolerance)
}

for (const name of ["rollout", "contribution_rollout", "attention", "tile", "repeated_frames"]) {
    test(`${name}: heat and shares are those of the overlay video, overall and at each layer`, async () => {
        const expected = await expectedOf(name)

        const exploration = await load(name)

        assertTrack(await exploration.heat(null), expected.overall)
        assert.equal(exploration.layers, expected.layers.length)
        for (const [layer, track] of expected.layers.entries()) {
            assertTrack(await exploration.heat(layer), track)
        }
    })

    test(`${name}: frames, crop and rollout over time are those of the archive`, async () => {
        const expected = await expectedOf(name)
        const [clips, length, rows, columns] = expected.shape

        const exploration = await load(name)

        const { frames, crop } = exploration
        assert.deepEqual([exploration.rows, exploration.columns], [rows, columns])
        assert.deepEqual(frames.map(({ index }) => index), expected.overall.frame_index)
        assert.deepEqual(frames.map(({ share }) => share), [...(await exploration.heat(null)).shares])
        for (const { seconds, clip, t } of frames) assert.equal(expected.pts_seconds[clip][t], seconds)
        assert.deepEqual([crop.x, crop.y, crop.width, crop.height], expected.crop)
        assert.deepEqual([exploration.width, exploration.height, exploration.duration], [480, 360, 10])
        for (let clip = 0; clip < clips; clip++) {
            const { size, values } = await exploration.temporal(clip)
            assert.equal(size, length)
            assertClose(values, expected.temporal[clip].flat(), 1e-6)
        }
    })
}

test("each class of a result has its own heat, and is read from the same files", async () => {
    const { classes, tracks } = await expectedOf("targets")

    const first = await load("targets")

    assert.deepEqual(first.targets.map(({ index }) => index), classes)
    assert.equal(first.isOfTokens, false)
    for (const [place, track] of tracks.entries()) {
        const exploration = await first.ofTarget(place)
        assert.equal(exploration.target, place)
        assert.equal(exploration.job.id, "targets")
        assertTrack(await exploration.heat(null), track)
        assert.deepEqual(exploration.frames.map(({ share }) => share), [...(await exploration.heat(null)).shares])
        assert.equal(await exploration.ofTarget(0), first)
    }
    await assert.rejects(first.ofTarget(3), RangeError)
})

// float16 has 11 significant bits, and steps of 2^-24 near 0.
const HALF = 2 ** -11

for (const name of ["rollout", "contribution_rollout"]) {
    test(`${name}: the heat of a patch is that of a job that asks about it`, async () => {
        const { patches } = await expectedOf(name)
        const exploration = await load(name)
        assert.ok(exploration.hasFullRollout && patches.length === 3)

        for (const { frame, row, column, track } of patches) {
            assertTrack(await exploration.patchHeat({ frame, row, column }), track, 2 * HALF)
        }
    })
}

test("a frame that was sampled twice is asked about where it was sampled first", async () => {
    const { patches } = await expectedOf("repeated_frames")
    const exploration = await load("repeated_frames")
    const { frames } = exploration
    assert.ok(frames.length < 8)

    let asked = 0
    for (const { frame: t, row, column, track } of patches) {
        const frame = frames.findIndex((sampled) => sampled.t === t)
        if (frame < 0) continue
        asked += 1
        assertTrack(await exploration.patchHeat({ frame, row, column }), track, 2 * HALF)
    }
    assert.ok(asked > 0)
})

test("without a full rollout and layers, the exploration says so", async () => {
    const exploration = await load("attention")

    assert.equal(exploration.hasFullRollout, false)
    await assert.rejects(exploration.patchHeat({ frame: 0, row: 0, column: 0 }), /no array named full_rollout/)
    await assert.rejects(exploration.heat(99), /no layer 99/)
})

test("the arrays of layers and tokens are fetched when they are asked for", async () => {
    files.requests.length = 0
    const exploration = await load("rollout")
    const { length } = files.requests

    await exploration.patchHeat({ frame: 0, row: 0, column: 0 })
    await exploration.patchHeat({ frame: 1, row: 3, column: 2 })

    assert.equal(files.requests.length, length + 1)
})

test("the files to show are those that the job has", async () => {
    const { result } = await jobOf("rollout")
    const artifacts = [{ name: "preview.mp4" }, { name: "thumbnails.jpg" }]

    const plain = await load("rollout")
    const shown = await load("rollout", { result: { ...result, artifacts } })

    assert.equal(plain.previewUrl, null)
    assert.equal(plain.thumbnails, null)
    assert.equal(shown.previewUrl, `${files.url}v1/jobs/rollout/artifacts/preview.mp4`)
})

test("a job whose files have expired is told by a sentence", async () => {
    const job = { ...(await jobOf("rollout")), id: "expired" }

    await assert.rejects(loadExploration(job), { sentence: /were removed/ })
})
