// Norms, rotary embeddings and feed-forwards of a Llama in JavaScript, which answer the float32 questions of
// `llama-reference export DIR`. In DIR:
//
//     node llama.js questions/rms_norm/hard.float32.txt answers/rms_norm/hard.float32
//
// Without arguments it reads such pairs from standard input, a line each, and says "done" after each.

const fs = require("fs")
const path = require("path")

// ---- the mathematics: in double precision, rounded once; x is {shape, at: a Float32Array} ----

function rmsNorm(model, where, x) {
  const gain = model.weights[where + ".weight"].at, D = x.shape.at(-1), y = x.at.slice()
  for (let row = 0; row < y.length; row += D) {
    let sum = 0
    for (let i = 0; i < D; i++) sum += x.at[row + i] ** 2
    const scale = 1 / Math.sqrt(sum / D + model.config.rms_norm_eps)
    for (let i = 0; i < D; i++) y[row + i] = gain[i] * x.at[row + i] * scale
  }
  return { shape: x.shape, at: y }
}

// Of every pair of channels the angle from one position to the next, and a factor on cosine and sine.
function frequencies(c, length) {
  const kind = c["rope.rope_type"], factor = c["rope.factor"] ?? 1, longest = c.max_position_embeddings, H = c.head_dim
  const original = c["rope.original_max_position_embeddings"]
  let base = c["rope.rope_theta"]
  if (kind === "dynamic")
    base *= ((factor * Math.max(length, longest)) / longest - factor + 1) ** (H / (H - 2))
  const channel = (turns) => (H * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(base))
  const first = Math.max(Math.floor(channel(32)), 0), last = Math.min(Math.ceil(channel(1)), H - 1)
  const within = (share) => Math.min(Math.max(share, 0), 1)
  const theta = Array.from({ length: H / 2 }, (_, i) => {
    const plain = base ** ((-2 * i) / H)
    if (kind === "linear") return plain / factor
    if (kind === "longrope") return plain / c[length > original ? "rope.long_factor" : "rope.short_factor"][i]
    if (kind === "llama3") {
      const low = c["rope.low_freq_factor"], high = c["rope.high_freq_factor"]
      const kept = within(((original * plain) / (2 * Math.PI) - low) / (high - low))
      return plain * (kept + (1 - kept) / factor)
    }
    const stretched = kind === "yarn" ? within((i - first) / Math.max(last - first, 1e-3)) : 0
    return plain * (1 - stretched + stretched / factor)
  })
  const sharpened = { yarn: 0.1 * Math.log(factor) + 1, longrope: Math.sqrt(1 + Math.log(factor) / Math.log(original)) }
  return [theta, sharpened[kind] ?? 1]
}

// x (B, heads, T, H) at positions (B, T): channels i and i + H/2 are a pair.
function rotary(model, x, positions) {
  const [, heads, T, H] = x.shape, y = x.at.slice()
  const [theta, factor] = frequencies(model.config, Math.max(...positions.at) + 1)
  for (let row = 0; row < y.length / H; row++) {
    const p = positions.at[Math.floor(row / (heads * T)) * T + (row % T)]
    for (let i = 0; i < H / 2; i++) {
      const [a, b] = [x.at[row * H + i], x.at[row * H + i + H / 2]]
      const [cos, sin] = [Math.cos(p * theta[i]) * factor, Math.sin(p * theta[i]) * factor]
      y[row * H + i] = a * cos - b * sin
      y[row * H + i + H / 2] = b * cos + a * sin
    }
  }
  return { shape: x.shape, at: y }
}

function linear(model, name, x) {
  const w = model.weights[name + ".weight"], bias = model.weights[name + ".bias"], [out, width] = w.shape
  const rows = x.at.length / width, y = new Float32Array(rows * out)
  for (let row = 0; row < rows; row++)
    for (let o = 0; o < out; o++) {
      let sum = bias ? bias.at[o] : 0
      for (let i = 0; i < width; i++) sum += x.at[row * width + i] * w.at[o * width + i]
      y[row * out + o] = sum
    }
  return { shape: [...x.shape.slice(0, -1), out], at: y }
}

const PHI = {
  silu: (z) => z / (1 + Math.exp(-z)),
  relu: (z) => Math.max(z, 0),
  gelu_pytorch_tanh: (z) => (z / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (z + 0.044715 * z ** 3))),
}

function swiglu(model, layer, x) {
  const at = `model.layers.${layer}.mlp.`, phi = PHI[model.config.hidden_act]
  if (!phi) return null // gelu needs erf, which JavaScript has not
  const gate = linear(model, at + "gate_proj", x), up = linear(model, at + "up_proj", x)
  return linear(model, at + "down_proj", { shape: gate.shape, at: gate.at.map((z, i) => phi(z) * up.at[i]) })
}

// ---- the questions: lines of words ----

function load(file) {
  const bytes = fs.readFileSync(file), start = 10 + bytes.readUInt16LE(8), header = bytes.toString("latin1", 10, start)
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((word) => word.trim()).map(Number)
  const data = bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length)
  const at = header.includes("<i8") ? Array.from(new BigInt64Array(data), Number) : new Float32Array(data)
  return { shape, at }
}

function save(file, x) {
  fs.mkdirSync(path.dirname(file), { recursive: true })
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${x.shape.map((n) => n + ",").join(" ")}), }`
  const start = Buffer.concat([Buffer.from([0x93]), Buffer.from("NUMPY\x01\x00\x76\x00" + header.padEnd(117) + "\n")])
  fs.writeFileSync(file, Buffer.concat([start, Buffer.from(x.at.buffer)]))
}

function value(word) {
  if (word.includes(",")) return word.split(",").map(value)
  return word === "" || isNaN(word) ? word : Number(word)
}

function answer(request, folder) {
  let model = null
  for (const line of fs.readFileSync(request, "utf8").trim().split("\n")) {
    const [kind, name, ...words] = line.split(" ")
    if (kind === "model") model = { dtype: name, config: {}, weights: {} }
    if (kind === "config") model.config[name] = value(words[0])
    if (model?.dtype !== "float32") continue
    if (kind === "weight") model.weights[name] = load(words[0])
    if (kind !== "call") continue
    const given = Object.fromEntries(words.map((word) => word.split("=")))
    const write = (to, x) => x && save(path.join(folder, to), x)
    if (name === "rms_norm") write(given.answer, rmsNorm(model, given.where, load(given.x)))
    if (name === "swiglu") write(given.answer, swiglu(model, given.layer, load(given.x)))
    if (name === "rotary")
      for (const part of "qk") write(given["answer_" + part], rotary(model, load(given[part]), load(given.positions)))
  }
}

if (process.argv.length > 3) answer(process.argv[2], process.argv[3])
else
  require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
    answer(...line.split(" "))
    console.log("done")
  })
