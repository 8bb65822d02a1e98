// The real service, seen through proxies that break connections; and what Node lacks of a browser.
import { once } from "node:events"
import { readFile } from "node:fs/promises"
import { connect, createServer } from "node:net"

import { createJob } from "../../../service/page/static/api/client.js"
import { uploadVideo } from "../../../service/page/static/api/upload.js"
import { setBase, values } from "./files.mjs"

/** What a browser keeps for a page. */
export class Storage {
    #texts = new Map()
    getItem(name) {
        return this.#texts.get(name) ?? null
    }
    setItem(name, text) {
        this.#texts.set(name, String(text))
    }
}

export function openPage() {
    setBase(values.url)
    globalThis.localStorage = new Storage()
}

/** Make the calls of an upload; Node has no XMLHttpRequest. `calls` lists what was answered. */
export function sender(calls = []) {
    return async ({ method, url, headers, body, onSent, signal }) => {
        try {
            const response = await fetch(url, { method, headers, body, signal })
            const text = await response.text()
            onSent?.(body?.byteLength ?? 0)
            calls.push(`${method} ${response.status}`)
            return { status: response.status, header: (name) => response.headers.get(name), text }
        } catch {
            calls.push(`${method} 0`)
            return { status: 0, header: () => null, text: "" }
        }
    }
}

/**
 * Pass connections on to the service.
 *
 * `onRequest(bytes, connection)` and `onAnswer(bytes, connection)` see each chunk before it is passed on;
 * what they return false for is dropped. `connection.cut()` breaks a connection.
 */
export async function proxy({ onRequest = () => {}, onAnswer = () => {} } = {}) {
    const service = new URL(values.url)
    const open = new Set()
    const server = createServer((client) => {
        const target = connect(Number(service.port), service.hostname)
        const connection = {
            cut() {
                client.destroy()
                target.destroy()
            },
        }
        open.add(connection)
        client.on("data", (bytes) => onRequest(bytes, connection) !== false && target.write(bytes))
        target.on("data", (bytes) => onAnswer(bytes, connection) !== false && client.write(bytes))
        for (const side of [client, target]) side.on("close", connection.cut).on("error", connection.cut)
    })
    server.listen(0, "127.0.0.1")
    await once(server, "listening")
    const close = () => {
        for (const connection of open) connection.cut()
        server.close()
    }
    return { url: `http://127.0.0.1:${server.address().port}/`, close }
}

/** Send the sample, under a name, and create a job. */
export async function jobOf(request, name = "sample.mp4") {
    const bytes = await readFile(values.sample)
    const upload = await uploadVideo(new File([bytes], name), { send: sender() })
    return createJob({ upload, reuse: false, ...request })
}
