// Runs one job with the types of openapi-typescript and the client openapi-fetch.
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

type Job = components["schemas"]["Job"];

const [url, video] = process.argv.slice(2) as [string, string];
const client = createClient<paths>({ baseUrl: url });

async function main(): Promise<void> {
  // Every field of a request may be left out.
  const options: components["schemas"]["JobOptions"] = { model: "fake", query: ["cls", "0:1:1"] };
  const nothing: components["schemas"]["JobOptions"] = {};
  void nothing;
  const created = await client.POST("/v1/jobs", {
    body: { video: video, request: options },
    bodySerializer() {
      const form = new FormData();
      form.append("video", new File([readFileSync(video)], "video.mp4"));
      form.append("request", JSON.stringify(options));
      return form;
    },
  });
  if (!created.data) throw new Error(created.error.detail);
  let job: Job = created.data;
  while (job.ended_at === null) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    const path = { job_id: job.id };
    const found = await client.GET("/v1/jobs/{job_id}", { params: { path } });
    if (!found.data) throw new Error(found.error.detail);
    job = found.data;
  }
  // An answer has every field.
  const method: string = job.request.method;
  const missing = await client.GET("/v1/jobs/{job_id}", { params: { path: { job_id: "0".repeat(32) } } });
  const code: components["schemas"]["Problem"]["code"] | undefined = missing.error?.code;
  const sheet = await client.GET("/v1/jobs/{job_id}/artifacts/{name}", {
    params: { path: { job_id: job.id, name: "sheet.png" } },
    parseAs: "arrayBuffer",
  });
  const bytes = Buffer.from(sheet.data as unknown as ArrayBuffer);
  console.log(JSON.stringify({ state: job.state, method, code, sheet: bytes.toString("base64") }));
}

void main();
