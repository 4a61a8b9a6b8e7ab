// OpenAI's official Node SDK, unchanged, against `weir serve --simulate` at WEIR_URL: what an application
// developer does must work as it does at OpenAI. At WEIR_PASSTHROUGH_URL is a gateway without a key of its own.
// `tests/node/run` starts them.
import assert from 'node:assert/strict';
import net from 'node:net';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import OpenAI, { toFile } from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';

const gateway = process.env.WEIR_URL;
const control = process.env.WEIR_CONTROL_URL;
const passthrough = process.env.WEIR_PASSTHROUGH_URL;
assert.ok(gateway && control && passthrough, 'tests/node/run sets WEIR_URL and its like');

const client = new OpenAI({ baseURL: `${gateway}/v1`, apiKey: 'sk-node-sdk-test', maxRetries: 0 });
const model = 'gpt-4.1-mini';
const hello = [{ role: 'user', content: 'Say hello' }];
const weather = {
  type: 'object',
  properties: { city: { type: 'string' }, degrees: { type: 'number' } },
  required: ['city', 'degrees'],
  additionalProperties: false,
};
const example = { messages: [{ role: 'user', content: 'hi' }, { role: 'assistant', content: 'hello' }] };

const jsonl = (rows) => Buffer.from(rows.map((row) => JSON.stringify(row)).join('\n') + '\n');

async function all(stream) {
  const seen = [];
  for await (const item of stream) seen.push(item);
  return seen;
}

const contentOf = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? '').join('');

/** Asks again until `good` holds of the answer: states and metrics follow a moment later. */
async function eventually(ask, good) {
  let last;
  for (let tries = 0; tries < 200; tries++) {
    last = await ask();
    if (good(last)) return last;
    await sleep(100);
  }
  assert.fail(`never came true; last seen: ${JSON.stringify(last)}`);
}

/** The sum of a metric on the control plane over all series with this label. */
async function metric(name, label = '') {
  const text = await (await fetch(`${control}/metrics`)).text();
  const named = (row) => row.startsWith(`${name} `) || row.startsWith(`${name}{`);
  const rows = text.split('\n').filter((row) => named(row) && row.includes(label));
  return rows.reduce((sum, row) => sum + Number(row.slice(row.lastIndexOf(' '))), 0);
}

async function refusal(call, kind) {
  const error = await call.then(() => assert.fail('the call was not refused'), (error) => error);
  assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
  return error;
}

// ------------------------------------------------------------------ chat/completions

test('a chat completion has an answer and usage that adds up', async () => {
  const answer = await client.chat.completions.create({ model, messages: hello });
  assert.equal(answer.object, 'chat.completion');
  assert.equal(answer.choices[0].finish_reason, 'stop');
  assert.ok(answer.choices[0].message.content.length > 0);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test('a stream ends with stop and has no usage when nobody asked for it', async () => {
  const chunks = await all(await client.chat.completions.create({ model, messages: hello, stream: true }));
  const whole = await client.chat.completions.create({ model, messages: hello });
  assert.equal(contentOf(chunks), whole.choices[0].message.content);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
  assert.ok(chunks.every((chunk) => chunk.usage == null && chunk.choices.length > 0));
});

test('a stream has one usage chunk, the last, when it was asked for', async () => {
  const chunks = await all(
    await client.chat.completions.create({
      model, messages: hello, stream: true, stream_options: { include_usage: true },
    }),
  );
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage == null));
});

test('the SDK\'s stream helper puts a stream together', async () => {
  const stream = client.chat.completions.stream({ model, messages: hello });
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].finish_reason, 'stop');
  assert.ok(final.choices[0].message.content.length > 0);
});

test('a client that aborts a stream stops the call, also at the gateway', async () => {
  const content = '[[simulate chunks=1000 chunk_delay_ms=200]] Tell me a long story';
  const stream = await client.chat.completions.create({
    model, messages: [{ role: 'user', content }], stream: true,
  });
  let chunks = 0;
  for await (const chunk of stream) {
    chunks += chunk.choices.length;
    if (chunks === 3) {
      assert.ok((await metric('weir_in_flight_requests')) >= 1, 'the open stream is counted');
      stream.controller.abort();
    }
  }
  assert.ok(chunks < 1000);
  // Unabated it would run for 200 s, ten times as long as this waits.
  await eventually(() => metric('weir_in_flight_requests'), (count) => count === 0);
});

test('a tool is called, and its result is answered', async () => {
  const tools = [{ type: 'function', function: { name: 'get_weather', parameters: weather } }];
  const messages = [{ role: 'user', content: 'Use get_weather for Paris' }];
  const first = await client.chat.completions.create({ model, messages, tools });
  const [call] = first.choices[0].message.tool_calls;
  assert.equal(first.choices[0].finish_reason, 'tool_calls');
  assert.equal(call.function.name, 'get_weather');
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)).sort(), ['city', 'degrees']);
  messages.push(first.choices[0].message, { role: 'tool', tool_call_id: call.id, content: '{"degrees":21}' });
  const second = await client.chat.completions.create({ model, messages, tools });
  assert.equal(second.choices[0].finish_reason, 'stop');
});

test('tool calls of a stream come in pieces that the SDK puts together', async () => {
  const stream = client.chat.completions.stream({
    model, messages: hello, tool_choice: 'required',
    tools: [{ type: 'function', function: { name: 'get_weather', parameters: weather } }],
  });
  const [call] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
  assert.equal(call.function.name, 'get_weather');
  assert.doesNotThrow(() => JSON.parse(call.function.arguments));
});

test('a structured answer of chat/completions is parsed', async () => {
  const answer = await client.chat.completions.parse({
    model, messages: hello,
    response_format: { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema: weather } },
  });
  const { parsed } = answer.choices[0].message;
  assert.equal(typeof parsed.city, 'string');
  assert.equal(typeof parsed.degrees, 'number');
});

// ------------------------------------------------------------------ responses

test('a response has text and can be read again', async () => {
  const response = await client.responses.create({ model, input: 'Say hello' });
  assert.equal(response.status, 'completed');
  assert.ok(response.output_text.length > 0);
  assert.ok(response.usage.total_tokens > 0);
  assert.equal((await client.responses.retrieve(response.id)).id, response.id);
});

test('the events of a streamed response come in order', async () => {
  const events = await all(await client.responses.create({ model, input: 'Say hello', stream: true }));
  const types = events.map((event) => event.type);
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  assert.deepEqual(types.filter((type, at) => type !== types[at - 1]), [
    'response.created', 'response.in_progress', 'response.output_item.added', 'response.content_part.added',
    'response.output_text.delta', 'response.output_text.done', 'response.content_part.done',
    'response.output_item.done', 'response.completed',
  ]);
  const text = events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta);
  assert.equal(text.join(''), events.find((event) => event.type === 'response.output_text.done').text);
  assert.ok(events.at(-1).response.usage.total_tokens > 0);
});

test('a structured response is parsed', async () => {
  const response = await client.responses.parse({
    model, input: 'How is the weather?',
    text: { format: { type: 'json_schema', name: 'weather', strict: true, schema: weather } },
  });
  assert.equal(typeof response.output_parsed.city, 'string');
});

// ------------------------------------------------------------------ embeddings, models, moderations

test('embeddings are the same as floats and as base64, the SDK\'s own default', async () => {
  const ask = { model: 'text-embedding-3-small', input: ['one', 'two'] };
  const decoded = await client.embeddings.create(ask);
  const floats = await client.embeddings.create({ ...ask, encoding_format: 'float' });
  assert.deepEqual(decoded.data.map((row) => row.embedding.length), [1536, 1536]);
  for (const [at, row] of decoded.data.entries()) {
    const far = row.embedding.some((value, i) => Math.abs(value - floats.data[at].embedding[i]) > 1e-6);
    assert.ok(!far, 'base64 holds 32-bit floats');
  }
  assert.notDeepEqual(decoded.data[0].embedding, decoded.data[1].embedding);
});

test('models are listed and read', async () => {
  const ids = (await all(client.models.list())).map((entry) => entry.id);
  assert.ok(ids.includes(model));
  assert.equal((await client.models.retrieve(model)).id, model);
});

test('an answer that was read to its end does not count as a client that left', async () => {
  const left = () => metric('gen_ai_server_request_duration_seconds_count', 'error_type="client_gone"');
  const all_done = () => metric('weir_requests_total');
  const [left_before, done_before] = [await left(), await all_done()];
  await client.models.list();
  await client.models.retrieve(model);
  await eventually(all_done, (count) => count === done_before + 2);
  assert.equal(await left(), left_before);
});

test('a moderation answers per category', async () => {
  const { results } = await client.moderations.create({ model: 'omni-moderation-latest', input: 'a lovely day' });
  assert.equal(results[0].flagged, false);
  assert.equal(results[0].categories.violence, false);
});

// ------------------------------------------------------------------ files, uploads, batches, fine-tuning

test('a file comes back byte for byte', async () => {
  const content = Buffer.concat([jsonl([example]), Buffer.from([0x0a])]);
  const file = await client.files.create({ file: await toFile(content, 'one.jsonl'), purpose: 'fine-tune' });
  assert.equal(file.bytes, content.length);
  const read = Buffer.from(await (await client.files.content(file.id)).arrayBuffer());
  assert.ok(read.equals(content));
  assert.ok((await all(client.files.list())).some((entry) => entry.id === file.id));
  assert.equal((await client.files.delete(file.id)).deleted, true);
});

test('an upload of 3 MB in three parts is put together', async () => {
  const content = Buffer.from(Uint8Array.from({ length: 3_000_000 }, (_, at) => (at * 31 + (at >> 8)) % 251));
  const upload = await client.uploads.create({
    bytes: content.length, filename: 'big.bin', mime_type: 'application/octet-stream', purpose: 'user_data',
  });
  const parts = [];
  for (let from = 0; from < content.length; from += 1_000_000) {
    const data = await toFile(content.subarray(from, from + 1_000_000), 'part');
    parts.push((await client.uploads.parts.create(upload.id, { data })).id);
  }
  const done = await client.uploads.complete(upload.id, { part_ids: parts });
  assert.equal(done.status, 'completed');
  const read = Buffer.from(await (await client.files.content(done.file.id)).arrayBuffer());
  assert.ok(read.equals(content));
});

test('a batch is answered into a file', async () => {
  const rows = ['a', 'b'].map((custom_id) => ({
    custom_id, method: 'POST', url: '/v1/chat/completions', body: { model, messages: hello },
  }));
  const input = await client.files.create({ file: await toFile(jsonl(rows), 'batch.jsonl'), purpose: 'batch' });
  const batch = await client.batches.create({
    input_file_id: input.id, endpoint: '/v1/chat/completions', completion_window: '24h',
  });
  const done = await eventually(() => client.batches.retrieve(batch.id), (row) => row.status === 'completed');
  assert.deepEqual(done.request_counts, { total: 2, completed: 2, failed: 0 });
  const lines = (await (await client.files.content(done.output_file_id)).text()).trim().split('\n');
  assert.deepEqual(lines.map((line) => JSON.parse(line).custom_id), ['a', 'b']);
});

test('a fine-tune job runs to its end, tells about it, and leaves a model that answers', async () => {
  const content = jsonl(Array.from({ length: 12 }, () => example));
  const file = await client.files.create({ file: await toFile(content, 'train.jsonl'), purpose: 'fine-tune' });
  const job = await client.fineTuning.jobs.create({ model: 'gpt-4.1-mini', training_file: file.id, suffix: 'node' });
  assert.ok((await all(client.fineTuning.jobs.list())).some((row) => row.id === job.id));
  const done = await eventually(() => client.fineTuning.jobs.retrieve(job.id), (row) => row.status === 'succeeded');
  assert.match(done.fine_tuned_model, /^ft:gpt-4\.1-mini:/);
  const events = await all(client.fineTuning.jobs.listEvents(job.id, { limit: 5 }));
  assert.ok(events.length > 5, 'the SDK turned the pages');
  const answer = await client.chat.completions.create({ model: done.fine_tuned_model, messages: hello });
  assert.equal(answer.model, done.fine_tuned_model);
});

// ------------------------------------------------------------------ errors

test('a bad temperature is a BadRequestError with the provider\'s own words', async () => {
  const ask = client.chat.completions.create({ model, messages: hello, temperature: 3 });
  const error = await refusal(ask, OpenAI.BadRequestError);
  assert.deepEqual(error.error, {
    message: "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
    type: 'invalid_request_error', param: 'temperature', code: 'decimal_above_max_value',
  });
  assert.match(error.requestID, /^req_/);
});

test('a wrong key is an AuthenticationError where the caller\'s own key goes through', async () => {
  const caller = client.withOptions({ baseURL: `${passthrough}/v1` });
  assert.ok((await caller.chat.completions.create({ model, messages: hello })).id);
  const stranger = caller.withOptions({ apiKey: 'sk-invalid-0000' });
  const error = await refusal(
    stranger.chat.completions.create({ model, messages: hello }), OpenAI.AuthenticationError,
  );
  assert.equal(error.code, 'invalid_api_key');
});

test('an unknown model is a NotFoundError', async () => {
  await refusal(client.models.retrieve('no-such-model'), OpenAI.NotFoundError);
});

test('a limit that the provider keeps up is a RateLimitError', async () => {
  const error = await refusal(
    client.chat.completions.create(
      { model: 'gpt-4.1-nano', messages: hello },
      { headers: { 'x-simulate': 'status=429 retry_after=0' } },
    ),
    OpenAI.RateLimitError,
  );
  assert.equal(error.status, 429);
  assert.equal(typeof error.message, 'string');
});

test('a body without a model is refused in OpenAI\'s shape', async () => {
  const error = await refusal(client.chat.completions.create({ messages: hello }), OpenAI.BadRequestError);
  assert.deepEqual([error.type, error.param, error.code],
    ['invalid_request_error', 'model', 'missing_required_parameter']);
});

// ------------------------------------------------------------------ headers

test('an answer carries the provider\'s headers and the gateway\'s', async () => {
  const { data, response, request_id } = await client.chat.completions
    .create({ model, messages: hello }).withResponse();
  const headers = response.headers;
  assert.match(request_id, /^req_/);
  assert.equal(headers.get('openai-organization'), 'org-simulator');
  assert.equal(headers.get('x-weir-model'), data.model);
  assert.equal(headers.get('x-weir-attempts'), '1');
  assert.equal(headers.get('x-weir-cost-status'), 'exact');
  assert.match(headers.get('x-weir-cost-usd'), /^\d+(\.\d+)?$/);
  for (const name of ['x-weir-id', 'x-weir-route']) assert.ok(headers.get(name), name);
});

test('two requests have two ids', async () => {
  const id = async () =>
    (await client.chat.completions.create({ model, messages: hello }).asResponse()).headers.get('x-weir-id');
  assert.notEqual(await id(), await id());
});

test('a stream names its route but no cost, which nobody knows yet', async () => {
  const { data, response } = await client.chat.completions
    .create({ model, messages: hello, stream: true }).withResponse();
  await all(data);
  assert.ok(response.headers.get('x-weir-route'));
  assert.equal(response.headers.get('x-weir-cost-usd'), null);
  assert.equal(response.headers.get('x-accel-buffering'), 'no');
});

// ------------------------------------------------------------------ realtime

test('a realtime session opens and answers', async () => {
  // The SDK insists on wss: addresses; the connection beneath is plain, as the gateway's listener is here.
  const createConnection = ({ host, port }) => net.connect(Number(port), host);
  const talk = new OpenAIRealtimeWS({ model: 'gpt-realtime', options: { createConnection } }, client);
  const types = [];
  const done = await new Promise((resolve, reject) => {
    talk.on('error', reject);
    talk.on('event', (event) => types.push(event.type));
    talk.on('session.created', () => {
      const content = [{ type: 'input_text', text: 'Say hello' }];
      talk.send({ type: 'conversation.item.create', item: { type: 'message', role: 'user', content } });
      talk.send({ type: 'response.create' });
    });
    talk.on('response.done', resolve);
    talk.socket.on('close', () => reject(new Error(`closed after ${types}`)));
  });
  assert.equal(types[0], 'session.created');
  assert.ok(types.includes('response.output_text.delta'));
  assert.equal(done.response.status, 'completed');
  talk.close();
});
