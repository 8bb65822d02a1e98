import assert from "node:assert/strict"
import { readFile } from "node:fs/promises"
import path from "node:path"
import { test } from "node:test"

import { ArchiveError, decodeHalf, openArchive } from "../../../service/page/static/data/archive.js"
import { assertClose, expectedOf, serveFiles, values } from "./files.mjs"

async function withFiles(options, use) {
    const files = await serveFiles(values.folder, options)
    try {
        await use(files)
    } finally {
        files.close()
    }
}

async function openChanged(name, change, use) {
    await withFiles({ change: (_, bytes) => change(Buffer.from(bytes)) }, (files) =>
        use(() => openArchive(`${files.url}${name}`)),
    )
}

test("each array has its shape, type and values", async () => {
    const expected = await expectedOf("tile")
    await withFiles({}, async ({ url }) => {
        const archive = await openArchive(`${url}tile/rollout.npz`)

        const seconds = await archive.read("pts_seconds")
        const crop = await archive.read("crop_xywh")
        const temporal = await archive.read("temporal_rollout")

        assert.equal(seconds.dtype, "<f8")
        assert.deepEqual([...seconds.data], expected.pts_seconds.flat())
        assert.deepEqual([...crop.data], expected.crop)
        assertClose(temporal.data, expected.temporal.flat(2), 1e-7)
        assert.deepEqual(temporal.shape, [expected.shape[0], 8, 8])
    })
})

test("meta is a text of JSON", async () => {
    await withFiles({}, async ({ url }) => {
        const archive = await openArchive(`${url}rollout/rollout.npz`)

        const { shape, data } = await archive.read("meta")

        assert.deepEqual(shape, [])
        assert.equal(JSON.parse(data[0]).model, "moving-things")
    })
})

test("entries that are not compressed are read, also texts beyond Latin", async () => {
    await withFiles({}, async ({ url }) => {
        const archive = await openArchive(`${url}stored.npz`)

        assert.deepEqual((await archive.read("text")).data, ["ünï🎬"])
        assert.deepEqual([...(await archive.read("whole")).data], [0, 1, 2, 3, 4, 5])
        assert.deepEqual((await archive.read("whole")).shape, [2, 3])
        assert.deepEqual(archive.names.sort(), ["half", "text", "whole"])
    })
})

test("every float16 is decoded as a DataView of a newer browser does", async () => {
    await withFiles({}, async ({ url }) => {
        const { data } = await (await openArchive(`${url}stored.npz`)).read("half")

        const decoded = decodeHalf(data)

        assert.equal(decoded.length, 65536)
        assert.equal(decoded[0x3c00], 1)
        assert.equal(decoded[0x0001], 2 ** -24)
        assert.equal(decoded[0x7bff], 65504)
        assert.equal(decoded[0xfc00], -Infinity)
        assert.ok(Number.isNaN(decoded[0x7e00]))
        assert.ok(Object.is(decoded[0x8000], -0))
        assert.deepEqual([...decodeHalf(data, 0x3c00, 0x3c02)], [1, 1 + 2 ** -10])
    })
})

test("several texts are told apart", async () => {
    await withFiles({}, async ({ url }) => {
        assert.deepEqual((await (await openArchive(`${url}strange.npz`)).read("words")).data, ["a", "ünï"])
    })
})

test("an array is fetched when it is read, and once", async () => {
    await withFiles({}, async ({ url, requests }) => {
        const archive = await openArchive(`${url}rollout/rollout.npz`)
        const { length } = await readFile(path.join(values.folder, "rollout/rollout.npz"))
        assert.ok(length > 4 * 66_560, `${length} bytes are too few for this test`)
        assert.deepEqual(requests.map(({ range }) => range), ["bytes=-66560"])

        await Promise.all([archive.read("full_rollout"), archive.read("full_rollout")])
        await archive.read("full_rollout")

        assert.equal(requests.length, 2)
    })
})

test("the shape of an array needs only its start", async () => {
    await withFiles({}, async ({ url, requests }) => {
        const archive = await openArchive(`${url}rollout/rollout.npz`)

        assert.deepEqual(await archive.shape("full_rollout"), [1, 1569, 1569])
        assert.deepEqual(await archive.shape("crop_xywh"), [4])

        const [, begin, end] = /(\d+)-(\d+)/.exec(requests[1].range)
        assert.ok(end - begin < 8192)
    })
})

test("a server without Range is enough", async () => {
    await withFiles({ ranges: false }, async ({ url }) => {
        const archive = await openArchive(`${url}rollout/rollout.npz`)

        assert.deepEqual((await archive.read("full_rollout")).shape, [1, 1569, 1569])
    })
})

test("an array that is not there is refused by name", async () => {
    await withFiles({}, async ({ url }) => {
        const archive = await openArchive(`${url}attention/rollout.npz`)

        await assert.rejects(archive.read("full_rollout"), { name: "Error", message: /no array named full_rollout/ })
        await assert.rejects(archive.read("full_rollout"), ArchiveError)
    })
})

test("an array of an unknown type is refused by name", async () => {
    await withFiles({}, async ({ url }) => {
        const archive = await openArchive(`${url}strange.npz`)

        await assert.rejects(archive.read("flags"), /flags has values of an unknown type/)
    })
})

test("a file that was cut off is refused", async () => {
    for (const share of [0, 0.1, 0.5, 0.99]) {
        const cut = (bytes) => bytes.subarray(0, Math.floor(share * bytes.length))
        await openChanged("tile/rollout.npz", cut, (open) => assert.rejects(open, ArchiveError))
    }
})

test("a file that is no zip is refused", async () => {
    const other = (bytes) => bytes.fill("not a zip ")
    await openChanged("tile/rollout.npz", other, (open) => assert.rejects(open, /incomplete/))
})

test("a changed byte is refused, or changes nothing that is read", async () => {
    const original = await readFile(path.join(values.folder, "tile/rollout.npz"))
    const everything = async (open) => {
        const archive = await open()
        const arrays = await Promise.all(archive.names.map((name) => archive.read(name)))
        return JSON.stringify(arrays.map(({ shape, data }, n) => [archive.names[n], shape, [...data]]))
    }
    let whole
    await openChanged("tile/rollout.npz", (bytes) => bytes, async (open) => (whole = await everything(open)))
    let refused = 0
    const places = Array.from({ length: 120 }, (_, n) => Math.floor(((n + 0.5) * original.length) / 120))
    const directory = original.length - 1000
    for (const place of [...places, ...Array.from({ length: 100 }, (_, n) => directory + 10 * n)]) {
        const flip = (bytes) => {
            bytes[place] ^= 0x55
            return bytes
        }
        await openChanged("tile/rollout.npz", flip, async (open) => {
            try {
                // A name in the directory has no checksum; all other changes are refused or harmless.
                const found = await everything(open)
                if (found !== whole) assert.equal(found.length, whole.length, `byte ${place}`)
            } catch (error) {
                assert.ok(error instanceof ArchiveError, `byte ${place}: ${error.stack}`)
                assert.match(error.message, /^[A-Z_a-z].*\.$/)
                refused += 1
            }
        })
    }
    assert.ok(refused > 110, `${refused} refused`)
})

test("files that have expired are told by the service's problem", async () => {
    await withFiles({}, async ({ url }) => {
        await assert.rejects(openArchive(`${url}v1/jobs/gone/artifacts/rollout.npz`), {
            code: "artifact_expired",
            sentence: /removed because of their age/,
        })
    })
})

test("a service that does not answer is offline", async () => {
    const files = await serveFiles(values.folder)
    files.close()

    await assert.rejects(openArchive(`${files.url}tile/rollout.npz`), { offline: true })
})

test("a directory of zip64 is read", async () => {
    await openChanged("stored.npz", asZip64, async (open) => {
        const archive = await open()
        assert.deepEqual([...(await archive.read("whole")).data], [0, 1, 2, 3, 4, 5])
    })
})

/** Move the place and size of the directory to a zip64 record, as in files of over 4 GiB. */
function asZip64(bytes) {
    const at = bytes.length - 22
    const record = Buffer.alloc(56)
    record.writeUInt32LE(0x06064b50)
    record.writeBigUInt64LE(44n, 4)
    record.writeBigUInt64LE(BigInt(bytes.readUInt16LE(at + 10)), 32)
    record.writeBigUInt64LE(BigInt(bytes.readUInt32LE(at + 12)), 40)
    record.writeBigUInt64LE(BigInt(bytes.readUInt32LE(at + 16)), 48)
    const locator = Buffer.alloc(20)
    locator.writeUInt32LE(0x07064b50)
    locator.writeBigUInt64LE(BigInt(at), 8)
    const end = Buffer.from(bytes.subarray(at))
    end.fill(0xff, 8, 20)
    return Buffer.concat([bytes.subarray(0, at), record, locator, end])
}
