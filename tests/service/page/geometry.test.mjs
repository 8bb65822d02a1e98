import assert from "node:assert/strict"
import { test } from "node:test"

import { patchAt, patchRectangle, relativeTo } from "../../../service/page/static/data/geometry.js"

// As a portrait video of 480 by 640 is cropped: the patches are not square in the source.
const GRID = { crop: { x: 0, y: 80, width: 480, height: 480 }, rows: 6, columns: 8 }

test("a point of the crop lies in a patch", () => {
    assert.deepEqual(patchAt(GRID, 0, 80), { row: 0, column: 0 })
    assert.deepEqual(patchAt(GRID, 59.9, 159.9), { row: 0, column: 0 })
    assert.deepEqual(patchAt(GRID, 60, 160), { row: 1, column: 1 })
    assert.deepEqual(patchAt(GRID, 479.9, 559.9), { row: 5, column: 7 })
})

test("a point outside what the model saw lies in none", () => {
    for (const [x, y] of [[-0.1, 100], [480, 100], [100, 79.9], [100, 560], [NaN, 100]]) {
        assert.equal(patchAt(GRID, x, y), null, `${x} ${y}`)
    }
})

test("the middle of each patch lies in it", () => {
    for (let row = 0; row < 6; row++) {
        for (let column = 0; column < 8; column++) {
            const { x, y, width, height } = patchRectangle(GRID, row, column)
            assert.deepEqual(patchAt(GRID, x + width / 2, y + height / 2), { row, column })
            assert.deepEqual([width, height], [60, 80])
        }
    }
})

test("a place is told in shares of the picture", () => {
    const place = relativeTo(patchRectangle(GRID, 1, 2), { width: 480, height: 640 })

    assert.deepEqual(place, { x: 0.25, y: 0.25, width: 0.125, height: 0.125 })
})
