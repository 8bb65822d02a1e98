import assert from "node:assert/strict"
import { test } from "node:test"

import { distinctFrames, nearestFrame } from "../../../service/page/static/data/frames.js"
import { heatAt, heatTrack, scaleToFrame } from "../../../service/page/static/data/heat.js"

const GRID = { rows: 1, columns: 2 }

function assertNear(found, expected) {
    assert.equal(found.length, expected.length)
    found.forEach((value, n) => assert.ok(Math.abs(value - expected[n]) < 1e-6, `${n}: ${value}`))
}

test("a frame of two clips gets the mean of its maps and the sum of its shares", () => {
    const relevance = [0, 4, 1, 1, 3, 1, 0, 2]
    const of = { ...GRID, seconds: [0, 1, 1, 2], frameIndex: [0, 25, 25, 50] }

    const track = heatTrack(relevance, of)

    assert.deepEqual([...track.times], [0, 1, 2])
    const hot = 4 - 0.05 * (4 - 2) // the 99th percentile of the six means
    assertNear(track.heat, [0, 1, 2 / hot, 1 / hot, 0, 2 / hot])
    assert.deepEqual([...track.shares], [4 / 12, 6 / 12, 2 / 12])
})

test("negative relevance is neither heat nor a share", () => {
    const of = { ...GRID, seconds: [0, 1], frameIndex: [0, 25] }

    const track = heatTrack([-8, 1, 3, -1], of)

    assertNear(track.heat, [0, 1 / (3 - 0.03 * (3 - 1)), 1, 0])
    assert.deepEqual([...track.shares], [0.25, 0.75])
})

test("equal relevance is no heat; no relevance is shared evenly", () => {
    const of = { ...GRID, seconds: [0, 1], frameIndex: [0, 25] }

    assert.deepEqual([...heatTrack([3, 3, 3, 3], of).heat], [0, 0, 0, 0])
    assert.deepEqual([...heatTrack([0, 0, 0, 0], of).shares], [0.5, 0.5])
})

test("clips that overlap out of order are put in order", () => {
    const { index, first, counts, frameOf } = distinctFrames([50, 0, 25, 0])

    assert.deepEqual(index, [0, 25, 50])
    assert.deepEqual(first, [1, 2, 0])
    assert.deepEqual(counts, [2, 1, 1])
    assert.deepEqual(frameOf, [2, 0, 1, 0])
})

test("heat is linear between frames, constant outside, and written where it is asked to", () => {
    const track = heatTrack([0, 4, 4, 0], { ...GRID, seconds: [1, 3], frameIndex: [25, 75] })
    const out = new Float32Array(2)

    assert.equal(heatAt(track, 1.5, out), out)
    assert.deepEqual([...out], [0.25, 0.75])
    assert.deepEqual([...heatAt(track, 0)], [0, 1])
    assert.deepEqual([...heatAt(track, 3)], [1, 0])
    assert.deepEqual([...heatAt(track, 9)], [1, 0])
})

test("a map is scaled by its own range", () => {
    assert.deepEqual([...scaleToFrame(new Float32Array([0.25, 0.5, 0.75]))], [0, 0.5, 1])
    assert.deepEqual([...scaleToFrame(new Float32Array([0.25, 0.25]))], [0, 0])
})

test("the nearest frame is the earlier one of two", () => {
    const times = [0, 1, 4]

    assert.deepEqual([-1, 0.5, 0.51, 2.5, 2.6, 9].map((at) => nearestFrame(times, at)), [0, 0, 1, 1, 2, 2])
})
