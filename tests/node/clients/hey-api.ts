// Runs one job with the client that @hey-api/openapi-ts generates.
import { readFileSync } from "node:fs";
import { createJob, createUpload, getArtifact, getJob } from "./hey";
import { client } from "./hey/client.gen";
import type { Job, JobRequest, Problem } from "./hey";

const [url, video] = process.argv.slice(2) as [string, string];
client.setConfig({ baseUrl: url });

async function main(): Promise<void> {
  // Of two kinds of bodies this generator knows the JSON alone, so the video is sent on its own.
  const file = new Blob([readFileSync(video)]);
  const upload = await createUpload({ body: file, throwOnError: true });
  // Every other field of a request may be left out.
  const request: JobRequest = { upload: upload.data.id, model: "fake", query: ["cls", "0:1:1"] };
  const created = await createJob({ body: request, throwOnError: true });
  let job: Job = created.data;
  while (job.ended_at === null) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    job = (await getJob({ path: { job_id: job.id }, throwOnError: true })).data;
  }
  // An answer has every field.
  const method: string = job.request.method;
  const missing = await getJob({ path: { job_id: "0".repeat(32) } });
  const code: Problem["code"] | undefined = (missing.error as Problem | undefined)?.code;
  const path = { job_id: job.id, name: "sheet.png" };
  const sheet = await getArtifact({ path, throwOnError: true });
  const bytes = Buffer.from(await (sheet.data as Blob).arrayBuffer());
  console.log(JSON.stringify({ state: job.state, method, code, sheet: bytes.toString("base64") }));
}

void main();
