// node client.mjs fetch|agent: polls the job status, fetches the results call, downloads.
import http from "node:http";
import https from "node:https";

const { SNYK_API: root, SNYK_ORG_ID: org, SNYK_TOKEN: token } = process.env;
const headers = { authorization: `token ${token}`, "content-type": "application/vnd.api+json" };
const agents = { "http:": new http.Agent({ keepAlive: true }), "https:": new https.Agent({ keepAlive: true }) };

async function byFetch(url, init = {}) {
  const answer = await fetch(url, init);
  return { status: answer.status, text: await answer.text() };
}

function byAgent(url, { method = "GET", headers = {}, body } = {}) {
  const { protocol } = new URL(url);
  return new Promise((resolve, reject) => {
    const request = (protocol === "https:" ? https : http).request(url, { method, headers, agent: agents[protocol] });
    request.on("error", reject);
    request.on("response", (answer) => {
      let text = "";
      answer.setEncoding("utf8");
      answer.on("data", (piece) => (text += piece));
      answer.on("end", () => resolve({ status: answer.statusCode, text }));
      answer.on("error", reject);
    });
    request.end(body);
  });
}

const ask = process.argv[2] === "fetch" ? byFetch : byAgent;

async function call(path, init) {
  const { status, text } = await ask(`${root}/rest/orgs/${org}/${path}?version=2024-10-15`, { headers, ...init });
  if (status !== 200 && status !== 202) throw new Error(`${path}: ${status} ${text}`);
  return JSON.parse(text).data;
}

const filters = { updated: { from: "2026-01-01T00:00:00Z" } };
const body = JSON.stringify({ data: { type: "resource", attributes: { formats: ["csv"], dataset: "issues", filters } } });
const { id } = await call("export", { method: "POST", body });
while ((await call(`jobs/export/${id}`)).attributes.status !== "FINISHED") {
  await new Promise((resolve) => setTimeout(resolve, 1000));
}
const { results } = (await call(`export/${id}`)).attributes;
let rows = 0;
for (const { url } of results) {
  const { status, text } = await ask(url);
  if (status !== 200) throw new Error(`a file: ${status} ${text}`);
  rows += text.trimEnd().split("\n").length - 1;
}
console.log(`${results.length} files, ${rows} rows`);
Object.values(agents).forEach((agent) => agent.destroy());
