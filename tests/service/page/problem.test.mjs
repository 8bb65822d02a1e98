import assert from "node:assert/strict"
import { test } from "node:test"

import { failureSentence, Problem, problemOf } from "../../../service/page/static/api/problem.js"
import { SENTENCES, sentenceOf } from "../../../service/page/static/api/sentences.js"
import { values } from "./files.mjs"

const OWN_CODES = ["file_unreadable", "unexpected_answer"]
const SENTENCE = /^[A-Z][^{}]*[.]$/

test("every code of the service is told by a sentence, with a detail and without", () => {
    assert.ok(values.codes.length > 60)
    for (const code of values.codes) {
        for (const detail of ["the file has 12 bytes", "", null]) {
            const problem = new Problem({ status: 400, code, title: "It is so", detail })
            assert.match(problem.sentence, SENTENCE, `${code}: ${problem.sentence}`)
        }
    }
})

test("every code with which a job fails has a sentence that says what to do", () => {
    for (const code of values.failures) {
        assert.ok(code in SENTENCES, code)
        assert.match(failureSentence({ code, title: "It is so", detail: "as told" }), SENTENCE)
    }
})

test("there is no sentence for a code that the service does not have", () => {
    assert.deepEqual(Object.keys(SENTENCES).filter((code) => ![...values.codes, ...OWN_CODES].includes(code)), [])
})

test("a sentence has the detail, where that says what is wrong", () => {
    const detail = "12 s of 30 s are there."

    const sentence = failureSentence({ code: "video_incomplete", title: "The video is incomplete", detail })

    assert.equal(sentence, "A part of the video is missing: 12 s of 30 s are there. Choose a complete file.")
})

test("the advice of a detail is left out where the sentence has its own", () => {
    const told = "only 1.3 s of 10 s are there. Send the whole file, or allow_incomplete to explain what is there"

    assert.equal(
        sentenceOf({ code: "video_incomplete", title: "", detail: told }),
        "A part of the video is missing: only 1.3 s of 10 s are there. Choose a complete file.",
    )
    assert.equal(sentenceOf({ code: "invalid_request", title: "", detail: "No. Why not" }), "This cannot be done: No. Why not.")
})

test("a code of a newer service is told by its title and detail", () => {
    assert.equal(sentenceOf({ code: "moon", title: "The moon is full", detail: "wait a day" }), "The moon is full: wait a day.")
    assert.equal(sentenceOf({ code: "toString", title: "", detail: "$&" }), "The service could not do this: $&.")
    assert.equal(failureSentence(null), "The job failed.")
})

test("an answer of a proxy counts as no answer; another page is told as such", () => {
    assert.equal(problemOf(502, "<html>Bad Gateway</html>").offline, true)
    assert.equal(problemOf(503, JSON.stringify({ code: "service_busy", title: "Busy", detail: "" })).offline, false)
    assert.match(problemOf(413, "<html>").sentence, /answered in its place/)
    const bug = { code: "internal", title: "Internal error", request_id: "abc.1" }
    assert.match(problemOf(500, JSON.stringify(bug)).sentence, /tell the operator\. The request was abc\.1\.$/)
    assert.doesNotMatch(problemOf(503, JSON.stringify({ ...bug, code: "service_busy" })).sentence, /abc/)
    assert.equal(problemOf(429, JSON.stringify({ code: "queue_full", title: "Full" }), "7").retryAfterSeconds, 7)
})
