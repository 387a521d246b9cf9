// A BLIP model that `modeling-lavis export --format onnx` wrote, run by onnxruntime-web. export.json in its folder says
// what each graph takes.

import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web";

import { decode, normalize, resize } from "./image.js";

ort.env.wasm.numThreads = 1; // threads need a server that sends the headers COOP and COEP

export class Model {
  /** Load the folder at an address. Graphs are opened by the first call that needs them. */
  static async load(folder) {
    const model = new Model();
    model.read = async (name, kind) => {
      const answer = await fetch(`${folder}/${name}`);
      if (!answer.ok) throw new Error(`${folder}/${name} cannot be loaded: ${answer.status} ${answer.statusText}`);
      return kind === "json" ? answer.json() : new Uint8Array(await answer.arrayBuffer());
    };
    const names = ["export", "config", "generation_config", "processor_config", "tokenizer", "tokenizer_config"];
    const [manifest, config, generation, processor, ...tokenizer] = await Promise.all(
      names.map((name) => model.read(`${name}.json`, "json")),
    );
    if (manifest.format !== "onnx") throw new Error(`${folder} has the format ${manifest.format}; expected onnx.`);
    Object.assign(model, { config, generation, processor, tokenizer: new Tokenizer(...tokenizer), sessions: {} });
    model.weights = await model.read("weights.data");
    return model;
  }

  /** Run a graph. */
  async run(name, inputs) {
    this.sessions[name] ??= this.read(`${name}.onnx`).then((graph) =>
      ort.InferenceSession.create(graph, { externalData: [{ path: "weights.data", data: this.weights }] }),
    );
    return (await this.sessions[name]).run(inputs);
  }

  /** Hidden states of a picture (a file or an <img>), for the methods below. */
  async encode(picture) {
    const { image_mean, image_std, size } = this.processor.image_processor;
    const pixels = normalize(resize(await decode(picture), size.height), image_mean, image_std);
    const shape = [1, 3, size.height, size.height];
    return (await this.run("vision_model", { pixel_values: new ort.Tensor("float32", pixels, shape) })).last_hidden_state;
  }

  /** The caption of a picture, by greedy search. */
  async caption(states) {
    const keys = await this.run("text_decoder.bert.encoder", { encoder_hidden_states: states });
    const { num_attention_heads: heads, hidden_size, num_hidden_layers } = this.config.text_config;
    const prompt = this.tokenizer.encode(this.processor.prompt ?? "", { add_special_tokens: false }).ids;
    const ids = [this.config.bos_token_id, ...prompt];
    const past = {};
    for (let layer = 0; layer < num_hidden_layers; layer++) {
      for (const kind of ["key", "value"]) {
        past[`${layer}.${kind}`] = new ort.Tensor("float32", [], [1, heads, 0, hidden_size / heads]);
      }
    }
    const longest = this.generation.max_length ?? 30 + ids.length;
    for (let seen = 0; ids.length < longest; ) {
      const inputs = {
        input_ids: integers(ids.slice(seen)),
        attention_mask: integers(ids.map(() => 1)),
        position_ids: integers([...ids.keys()].slice(seen)),
      };
      for (const [name, tensor] of Object.entries(past)) inputs[`past.${name}`] = tensor;
      const { last_hidden_state, ...added } = await this.run("text_decoder.bert.step", { ...inputs, ...keys });
      for (const name of Object.keys(past)) past[name] = joined(past[name], added[`new.${name}`]);
      seen = ids.length;
      const last = new ort.Tensor("float32", last_hidden_state.data.slice(-hidden_size), [1, hidden_size]);
      const logits = (await this.run("text_decoder.cls", { hidden_states: last })).output.data;
      const next = logits.indexOf(Math.max(...logits));
      if (next === this.config.eos_token_id) break;
      ids.push(next);
    }
    return this.tokenizer.decode(ids.slice(1 + prompt.length), { skip_special_tokens: true }).trim();
  }

  /** For each text the probability that it matches the picture, and the cosine of their features. */
  async match(states, texts) {
    const image = await this.feature("vision_proj", states);
    const results = [];
    for (const text of texts) {
      const { ids } = this.tokenizer.encode(cleaned(text));
      const attention_mask = integers(ids.map(() => 1));
      const alone = await this.run("text_encoder.text", { input_ids: integers(ids), attention_mask });
      const feature = await this.feature("text_proj", alone.last_hidden_state);
      const fused = await this.run("text_encoder.multimodal", {
        input_ids: integers([this.config.enc_token_id, ...ids.slice(1)]),
        attention_mask,
        encoder_hidden_states: states,
        encoder_index: new ort.Tensor("int64", [0n], [1]),
      });
      const [no, yes] = (await this.run("itm_head", { hidden_states: first(fused.last_hidden_state) })).output.data;
      const similarity = image.reduce((sum, value, index) => sum + value * feature[index], 0);
      results.push({ text, score: 1 / (1 + Math.exp(no - yes)), similarity });
    }
    return results;
  }

  /** The first token of hidden states in the space that pictures and texts share, of length 1. */
  async feature(projection, states) {
    const { data } = (await this.run(projection, { hidden_states: first(states) })).output;
    const length = Math.hypot(...data);
    return data.map((value) => value / length);
  }
}

function integers(values) {
  return new ort.Tensor("int64", values.map(BigInt), [1, values.length]);
}

/** The first token of hidden states (1, tokens, size). */
function first({ data, dims }) {
  return new ort.Tensor("float32", data.slice(0, dims[2]), [1, dims[2]]);
}

/** Keys or values (1, heads, tokens, size) followed by those of new tokens. */
function joined(old, added) {
  const [, heads, tokens, size] = old.dims;
  const more = added.dims[2];
  const data = new Float32Array(heads * (tokens + more) * size);
  for (let head = 0; head < heads; head++) {
    const start = head * (tokens + more) * size;
    data.set(old.data.subarray(head * tokens * size, (head + 1) * tokens * size), start);
    data.set(added.data.subarray(head * more * size, (head + 1) * more * size), start + tokens * size);
  }
  return new ort.Tensor("float32", data, [1, heads, tokens + more, size]);
}

/** A text as processors clean captions. */
function cleaned(text) {
  return text.toLowerCase().replace(/[.!"()*#:;~]/g, " ").replace(/\s{2,}/g, " ").trim();
}
