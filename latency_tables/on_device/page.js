// Answers requests to measure models with onnxruntime-web, as serve.py does with onnxruntime.
//
// hwnas calls `handle(request)`; answers go through the binding `hwnasSay`, one JSON object each.
// `rounds` is the protocol of measure.py: a test compares the two on the same clock.
"use strict";

const MAX_CALLS = 1000000;
const TYPES = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, uint64: BigUint64Array,
  int32: Int32Array, uint32: Uint32Array, int16: Int16Array, uint16: Uint16Array,
  int8: Int8Array, uint8: Uint8Array, bool: Uint8Array, float16: Uint16Array,
};
let stopped = -1;
let threads = null;

const median = (values) => {
  const ordered = [...values].sort((a, b) => a - b);
  const middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
};

async function blockMs(call, calls, now) {
  const start = now();
  for (let i = 0; i < calls; i++) await call();
  return now() - start;
}

// How many calls fill a block, after the warm-up time.
async function warmedUp(call, protocol, now) {
  let calls = 1;
  await blockMs(call, calls, now);
  const end = now() + 1e3 * protocol.warmup_s;
  while (calls < MAX_CALLS) {
    if ((await blockMs(call, calls, now)) < protocol.block_ms) calls *= 2;
    else if (now() >= end) break;
  }
  const perCall = (await blockMs(call, calls, now)) / calls;
  return Math.max(1, Math.min(calls, Math.ceil(protocol.block_ms / Math.max(perCall, 1e-6))));
}

// Interleaved rounds: the ms of one call of each function, and how often a round was repeated.
async function* rounds(calls, protocol, now) {
  const deadline = now() + 1e3 * protocol.time_limit_s;
  const counts = [];
  for (const call of calls) counts.push(await warmedUp(call, protocol, now));
  const perCall = async (i) => {
    const blocks = [];
    for (let block = 0; block < protocol.blocks_per_round; block++) {
      blocks.push((await blockMs(calls[i], counts[i], now)) / counts[i]);
    }
    return median(blocks);
  };
  for (let done = 0; done < protocol.max_rounds; done++) {
    let figures;
    let repeats = 0;
    for (;;) {
      figures = [];
      for (let i = 0; i < calls.length; i++) figures.push(await perCall(i));
      if (protocol.max_repeats === 0) break;
      const drift = Math.abs((await perCall(0)) - figures[0]);
      const steady = drift <= protocol.sentinel_drift * figures[0];
      if (steady || repeats === protocol.max_repeats || now() >= deadline) break;
      repeats += 1;
    }
    yield [figures, repeats];
    if (now() >= deadline) return;
  }
}

// Lets the browser take messages, such as that a measurement is to stop.
const pause = () => new Promise((resolve) => {
  const channel = new MessageChannel();
  channel.port1.onmessage = resolve;
  channel.port2.postMessage(null);
});

function say(content) {
  hwnasSay(JSON.stringify(content));
}

function bytesOf(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function textOf(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) {
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  }
  return btoa(text);
}

async function started(model, request) {
  if (threads !== null && threads !== request.threads) throw new Error("another number of threads");
  threads = request.threads;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "fatal";
  const content = await (await fetch(`/files/${model.model}`)).arrayBuffer();
  return ort.InferenceSession.create(new Uint8Array(content), {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
    executionMode: "sequential",
  });
}

async function feedsOf(model) {
  const arrays = await (await fetch(`/feeds/${model.feeds}`)).json();
  const tensors = arrays.map(({dtype, dims, data}) =>
    new ort.Tensor(dtype, new TYPES[dtype](bytesOf(data).buffer), dims));
  return Object.fromEntries(model.names.map((name, i) => [name, tensors[i]]));
}

async function withCalls(request, use) {
  const sessions = [];
  try {
    const calls = [];
    for (const model of request.models) {
      const session = await started(model, request);
      sessions.push(session);
      const feeds = await feedsOf(model);
      calls.push(() => session.run(feeds));
    }
    return await use(calls);
  } finally {
    for (const session of sessions) await session.release();
  }
}

const now = () => performance.now();
const handlers = {
  async measure(request) {
    const start = now();
    await withCalls(request, async (calls) => {
      for await (const [figures, repeats] of rounds(calls, request.protocol, now)) {
        say({id: request.id, round: figures, repeats});
        await pause();
        if (stopped === request.id) break;
      }
    });
    const seconds = (now() - start) / 1e3;
    return {others_cores: null, seconds, throttled: false, temperature_c: null};
  },
  async time(request) {
    return withCalls(request, async ([call]) => {
      await call();
      return blockMs(call, request.calls, now);
    });
  },
  async single(request) {
    const {calls: most, seconds, few, few_seconds} = request.limits;
    return withCalls(request, async ([call]) => {
      await call();
      const found = [];
      const begin = now();
      while (found.length < most) {
        found.push(await blockMs(call, 1, now));
        const limit = found.length >= few ? seconds : few_seconds;
        if (now() - begin >= 1e3 * limit) break;
      }
      return found;
    });
  },
  async infer(request) {
    const session = await started(request.models[0], request);
    const outputs = await session.run(await feedsOf(request.models[0]));
    const tensors = session.outputNames.map((name) => {
      const {type, dims, data} = outputs[name];
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      return {dtype: type, dims, data: textOf(bytes)};
    });
    await session.release();
    return {names: session.outputNames, tensors};
  },
};

async function handle(request) {
  try {
    say({id: request.id, done: await handlers[request.do](request)});
  } catch (error) {
    say({id: request.id, error: String(error.message || error), kind: "model"});
  }
}

function stop(id) {
  stopped = id;
}

if (typeof module !== "undefined") module.exports = {rounds};
