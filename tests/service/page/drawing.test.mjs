import assert from "node:assert/strict"
import { test } from "node:test"

import { rgbTable } from "../../../service/page/static/data/colormaps.js"
import { drawHeat } from "../../../service/page/static/data/drawing.js"
import { assertClose } from "./files.mjs"

const STYLE = { shown: true, opacity: 0.6, colormap: "gray", threshold: 0, smoothing: 0, scale: "video" }
// gray tells heat by its red channel.
const GRAY = rgbTable("gray")

function picture(width, height) {
    return { width, height, data: new Uint8ClampedArray(4 * width * height).fill(7) }
}

function draw(map, rows, columns, { width = columns * 10, height = rows * 10, table = GRAY, ...style } = {}) {
    const pixels = picture(width, height)
    drawHeat(pixels, Float32Array.from(map), rows, columns, { ...STYLE, ...style }, table)
    return (x, y) => [...pixels.data.subarray(4 * (y * width + x), 4 * (y * width + x) + 4)]
}

/** Red channels of a row or a column of a picture. */
function reds(at, count, of = (n) => [n, 0]) {
    return Array.from({ length: count }, (_, n) => at(...of(n))[0])
}

test("without smoothing, each patch is a square of its colour and alpha", () => {
    const at = draw([0, 1, 0.5, 0.2, 0.8, 0.4], 2, 3)

    assert.deepEqual(at(0, 0), [0, 0, 0, 0])
    assert.deepEqual(at(10, 0), [255, 255, 255, 153])
    assert.deepEqual(at(19, 9), [255, 255, 255, 153])
    assert.deepEqual(at(20, 9), [128, 128, 128, 77])
    assert.deepEqual(at(0, 10), [51, 51, 51, 31])
    assert.deepEqual(at(29, 19), [102, 102, 102, 61])
})

test("patches are squares of equal size where the picture is no multiple of them", () => {
    const widths = { 0: 0, 128: 0, 255: 0 }
    for (const red of reds(draw([0, 0.5, 1], 1, 3, { width: 224, height: 4 }), 224)) widths[red] += 1

    assert.deepEqual(Object.values(widths), [75, 74, 75])
})

test("smoothing is a Gaussian of so many patches", () => {
    const at = draw([0, 0, 0, 0, 1, 1, 1, 1], 1, 8, { width: 800, height: 4, smoothing: 0.5, opacity: 1 })

    // The step lies at 400; a pixel is 0.01 patches.
    const shares = reds(at, 800).map((red) => red / 255)
    assertClose([shares[350], shares[399], shares[450]], [0.1600, 0.4920, 0.8438], 0.003)
    assert.equal(shares[200], 0)
    assert.equal(shares[600], 1)
})

test("smoothing keeps an even map even, up to the edges", () => {
    for (const smoothing of [0, 0.01, 0.3, 1, 3]) {
        const at = draw(Array(12).fill(0.4), 3, 4, { width: 37, height: 23, smoothing })
        const found = new Set(reds(at, 37 * 23, (n) => [n % 37, Math.floor(n / 37)]))
        assert.deepEqual([...found], [102], `smoothing ${smoothing}`)
    }
})

test("rows and columns are not exchanged", () => {
    const at = draw([0, 0, 0, 1, 1, 1], 2, 3, { smoothing: 0.4 })

    assert.equal(new Set(reds(at, 30)).size, 1)
    assert.ok(at(0, 0)[0] < 10 && at(0, 19)[0] > 245)
})

test("heat below the threshold is not drawn", () => {
    const at = draw([0.49, 0.51], 1, 2, { threshold: 0.5 })

    assert.equal(at(0, 0)[3], 0)
    assert.equal(at(10, 0)[3], 78)
})

test("with the scale of a frame, its highest heat is 1", () => {
    const at = draw([0.1, 0.15, 0.2], 1, 3, { scale: "frame" })

    assert.deepEqual(reds(at, 3, (n) => [10 * n, 0]), [0, 128, 255])
    assert.deepEqual(draw([0.3, 0.3], 1, 2, { scale: "frame" })(0, 0), [0, 0, 0, 0])
})

test("heat that is not shown leaves the picture empty", () => {
    assert.deepEqual(draw([1], 1, 1, { shown: false })(5, 5), [0, 0, 0, 0])
})

test("colours are those of the table", () => {
    const turbo = rgbTable("turbo")

    assert.deepEqual(draw([1], 1, 1, { table: turbo, opacity: 1 })(0, 0), [...turbo.subarray(765), 255])
})

test("a picture of 224 by 224 is drawn in a quarter of a frame at 60 Hz", () => {
    const pixels = picture(224, 224)
    const map = Float32Array.from({ length: 196 }, (_, n) => (n * 37 % 196) / 195)
    for (const smoothing of [0, 0.5, 1.5]) {
        const times = Array.from({ length: 200 }, () => {
            const begin = performance.now()
            drawHeat(pixels, map, 14, 14, { ...STYLE, smoothing, scale: "frame" }, GRAY)
            return performance.now() - begin
        }).sort((a, b) => a - b)
        process.stderr.write(`drawHeat, smoothing ${smoothing}: median ${times[100].toFixed(3)} ms\n`)
        // The fastest tenth: other tests run on the same cores. 0.3 to 1.7 ms on idle machines.
        assert.ok(times[20] < 4, `${times[20]} ms with smoothing ${smoothing}`)
    }
})
