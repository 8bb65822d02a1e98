import assert from "node:assert/strict"
import { beforeEach, test } from "node:test"

import { listJobs, Problem } from "../../../service/page/static/api/client.js"
import { logIn, logOut, whoAmI } from "../../../service/page/static/api/session.js"
import { setBase, values } from "./files.mjs"

const plainFetch = globalThis.fetch
let cookie = null

/** Keep the cookie of the service and send it with the origin, as a browser does for its page. */
async function fetchAsBrowser(url, { headers = {}, ...options } = {}) {
    const own = { ...headers, Origin: new URL(url).origin }
    const response = await plainFetch(url, { ...options, headers: cookie ? { ...own, Cookie: cookie } : own })
    const [set] = response.headers.getSetCookie()
    if (set) cookie = /Max-Age=0\b/.test(set) ? null : set.split(";")[0]
    return response
}

beforeEach(() => {
    cookie = null
    globalThis.fetch = fetchAsBrowser
    setBase(values.url)
})

test("without a key there is no session, and calls are refused", async () => {
    assert.equal(await whoAmI(), null)
    await assert.rejects(listJobs(), { status: 401, code: "unauthorized", sentence: /Enter your key/ })
})

test("a key gives a session, until it is ended", async () => {
    const session = await logIn("  key-of-ann\n")

    assert.equal(session.owner, "ann")
    assert.equal(session.keys_required, true)
    assert.deepEqual(await whoAmI(), session)
    assert.deepEqual((await listJobs()).jobs, [])

    await logOut()
    assert.equal(await whoAmI(), null)
})

test("a session that does not count any more is none", async () => {
    await logIn("key-of-ann")
    cookie = `${cookie.slice(0, -4)}AAAA`

    assert.equal(await whoAmI(), null)
})

test("a wrong key is told by a sentence, also one that no header can carry", async () => {
    for (const key of ["wrong", "schlüssel 🔑", ""]) {
        await assert.rejects(logIn(key), (problem) => {
            assert.ok(problem instanceof Problem)
            assert.equal(problem.code, "unauthorized", key)
            assert.match(problem.sentence, /does not know this key/)
            return true
        })
    }
})

test("a service without keys needs none", async () => {
    setBase(values.open)

    assert.deepEqual(await whoAmI(), { owner: null, expires_at: null, keys_required: false })
})
