import assert from "node:assert/strict"
import { test } from "node:test"

import { COLORMAPS, cssGradient, rgbTable } from "../../../service/page/static/data/colormaps.js"
import { values } from "./files.mjs"

test("the tables are those of the overlay video", () => {
    assert.deepEqual(COLORMAPS, Object.keys(values.tables))
    for (const name of COLORMAPS) assert.deepEqual([...rgbTable(name)], values.tables[name], name)
})

test("an unknown name, also that of a method of objects, is the default", () => {
    assert.deepEqual(rgbTable("toString"), rgbTable("plasma"))
})

test("a gradient begins and ends as the table does", () => {
    assert.match(cssGradient("gray"), /^linear-gradient\(to right, rgb\(0 0 0\), .*, rgb\(255 255 255\)\)$/)
})
