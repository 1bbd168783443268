// A file store that others wrote: s3rver, with a table in three parts and links signed by the vendor's SDK. Prints one
// link a line, then serves until it is ended.   node store.mjs FOLDER
import { createRequire } from "node:module";
import { createHash } from "node:crypto";
import path from "node:path";

const folder = process.argv[2];
const require = createRequire(path.resolve(folder, "package.json"));
const S3rver = require("s3rver");
const { S3Client, PutObjectCommand, GetObjectCommand } = require("@aws-sdk/client-s3");
const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");

const directory = path.resolve(folder, "buckets");
const server = new S3rver({ port: 0, address: "127.0.0.1", silent: true, directory, configureBuckets: [{ name: "exports" }] });
const { port } = await server.run();
const client = new S3Client({
  endpoint: `http://127.0.0.1:${port}`, region: "us-east-1", forcePathStyle: true,
  credentials: { accessKeyId: "S3RVER", secretAccessKey: "S3RVER" },
});
const whole = createHash("sha256");
whole.update("A,B\n");
for (let part = 1; part <= 3; part++) {
  let rows = "";
  for (let row = 0; row < 40_000; row++) rows += `${part}-${row},"one, ""two""\nand three"\n`;
  whole.update(rows);
  const Key = `part ${part}.csv`;
  await client.send(new PutObjectCommand({ Bucket: "exports", Key, Body: "A,B\n" + rows, ContentType: "text/csv" }));
  console.log("link", await getSignedUrl(client, new GetObjectCommand({ Bucket: "exports", Key }), { expiresIn: 3600 }));
}
console.log("table", whole.digest("hex"));
