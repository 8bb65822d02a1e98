// A server of files that answers Range requests, and what modules of the page need of a browser.
import { once } from "node:events"
import { readFile } from "node:fs/promises"
import { createServer } from "node:http"
import path from "node:path"

export const values = JSON.parse(process.env.VALUES)

/** Tell the modules where the service lives. */
export function setBase(url) {
    globalThis.document = { baseURI: url }
}

/**
 * Serve a folder: /FOLDER/NAME, and as the service does /v1/jobs/FOLDER/artifacts/NAME.
 * `requests` lists what was asked: path and range. `change(path, bytes)` may damage what is sent.
 */
export async function serveFiles(folder, { ranges = true, change = (_, bytes) => bytes } = {}) {
    const requests = []
    const server = createServer(async (request, response) => {
        const name = decodeURIComponent(request.url).replace(/^\/v1\/jobs\/([^/]+)\/artifacts/, "/$1")
        requests.push({ path: name, range: request.headers.range })
        const bytes = await readFile(path.join(folder, name)).then((found) => change(name, found), () => null)
        if (bytes === null) {
            const problem = { status: 410, code: "artifact_expired", title: "The files have expired", detail: "" }
            response.writeHead(410, { "Content-Type": "application/problem+json" }).end(JSON.stringify(problem))
            return
        }
        const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range ?? "") ?? []
        if (!ranges || first === undefined) {
            response.writeHead(200).end(bytes)
            return
        }
        const begin = first === "" ? Math.max(0, bytes.length - Number(last)) : Number(first)
        const end = first === "" ? bytes.length : Math.min(bytes.length, Number(last) + 1)
        const headers = { "Content-Range": `bytes ${begin}-${end - 1}/${bytes.length}` }
        response.writeHead(206, headers).end(bytes.subarray(begin, end))
    })
    server.listen(0, "127.0.0.1")
    await once(server, "listening")
    const url = `http://127.0.0.1:${server.address().port}/`
    const close = () => {
        server.closeAllConnections()
        server.close()
    }
    return { url, requests, close }
}

export async function expectedOf(name) {
    return JSON.parse(await readFile(path.join(values.folder, name, "expected.json"), "utf8"))
}

/** Compare numbers, and say where they differ most. */
export function assertClose(actual, expected, tolerance, relative = 0) {
    if (actual.length !== expected.length) throw new Error(`${actual.length} values, not ${expected.length}`)
    for (let n = 0; n < expected.length; n++) {
        const difference = Math.abs(actual[n] - expected[n])
        if (!(difference <= tolerance + relative * Math.abs(expected[n]))) {
            throw new Error(`value ${n} is ${actual[n]}, not ${expected[n]}`)
        }
    }
}
