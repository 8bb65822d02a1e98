// Uploads a file with tus-js-client. Argument: JSON of options; prints JSON of what has happened.
//   file, endpoint     what is sent, and where to
//   uploadUrl          goes on with this upload
//   abortAt            stops after this many bytes; with terminate, the upload is removed too
//   headers, chunkSize, uploadDataDuringCreation, overridePatchMethod    as tus-js-client has them
import { createReadStream } from "node:fs"
import { Upload } from "tus-js-client"

const { file, abortAt, terminate, ...options } = JSON.parse(process.argv[2])
const statuses = []

function report(error) {
    console.log(JSON.stringify({ url: upload.url, error: error?.message, statuses }))
    process.exit(0)
}

const upload = new Upload(createReadStream(file), {
    metadata: { filename: "clip ä.mp4", filetype: "video/mp4" },
    retryDelays: [200, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000],
    ...options,
    onAfterResponse: (request, response) => {
        statuses.push(`${request.getMethod()} ${response.getStatus()}`)
    },
    onProgress: (sent) => {
        if (abortAt !== undefined && sent >= abortAt) {
            upload.abort(terminate).then(() => report(), report)
        }
    },
    onError: report,
    onSuccess: () => report(),
})
upload.start()
