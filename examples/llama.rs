// Norms, rotary embeddings and feed-forwards of a Llama in Rust, which answer the float32 questions of
// `llama-reference export DIR`; the standard library only. In DIR:
//
//     rustc --edition 2021 -O -o llama llama.rs
//     ./llama questions/rms_norm/hard.float32.txt answers/rms_norm/hard.float32
//
// Without arguments it reads such pairs from standard input, a line each, and says "done" after each.

use std::collections::HashMap;
use std::f64::consts::PI;
use std::{env, fs, io, path::Path};

struct Tensor {
    shape: Vec<usize>,
    at: Vec<f32>, // whole numbers too: they are small
}

#[derive(Default)]
struct Model {
    dtype: String,
    config: HashMap<String, String>,
    weights: HashMap<String, Tensor>,
}

impl Model {
    fn text(&self, name: &str) -> &str {
        self.config.get(name).map_or("", String::as_str)
    }
    fn number(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or(1.0)
    }
}

// ---- the mathematics: in double precision, rounded once ----

fn rms_norm(model: &Model, place: &str, x: &Tensor) -> Tensor {
    let (gain, d) = (&model.weights[&format!("{place}.weight")].at, x.shape[x.shape.len() - 1]);
    let mut y = x.at.clone();
    for row in y.chunks_mut(d) {
        let sum: f64 = row.iter().map(|&v| v as f64 * v as f64).sum();
        let scale = 1.0 / (sum / d as f64 + model.number("rms_norm_eps")).sqrt();
        for (v, g) in row.iter_mut().zip(gain) {
            *v = (*g as f64 * *v as f64 * scale) as f32;
        }
    }
    Tensor { shape: x.shape.clone(), at: y }
}

/// Of every pair of channels the angle from one position to the next, and a factor on cosine and sine.
fn frequencies(model: &Model, length: f64) -> (Vec<f64>, f64) {
    let kind = model.text("rope.rope_type");
    let (h, factor, longest) = (model.number("head_dim"), model.number("rope.factor"), model.number("max_position_embeddings"));
    let original = model.number("rope.original_max_position_embeddings");
    let mut base = model.number("rope.rope_theta");
    if kind == "dynamic" {
        base *= (factor * length.max(longest) / longest - factor + 1.0).powf(h / (h - 2.0));
    }
    let channel = |turns: f64| h * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
    let (first, last) = (channel(32.0).floor().max(0.0), channel(1.0).ceil().min(h - 1.0));
    let divisors = model.text(if length > original { "rope.long_factor" } else { "rope.short_factor" });
    let divisors: Vec<f64> = divisors.split(',').filter_map(|word| word.parse().ok()).collect();
    let one = |i: usize| {
        let plain = base.powf(-2.0 * i as f64 / h);
        match kind {
            "linear" => plain / factor,
            "longrope" => plain / divisors[i],
            "llama3" => {
                let (low, high) = (model.number("rope.low_freq_factor"), model.number("rope.high_freq_factor"));
                let kept = ((original * plain / (2.0 * PI) - low) / (high - low)).clamp(0.0, 1.0);
                plain * (kept + (1.0 - kept) / factor)
            }
            "yarn" => {
                let stretched = ((i as f64 - first) / (last - first).max(1e-3)).clamp(0.0, 1.0);
                plain * (1.0 - stretched + stretched / factor)
            }
            _ => plain,
        }
    };
    let sharpened = match kind {
        "yarn" => 0.1 * factor.ln() + 1.0,
        "longrope" => (1.0 + factor.ln() / original.ln()).sqrt(),
        _ => 1.0,
    };
    ((0..h as usize / 2).map(one).collect(), sharpened)
}

/// x (B, heads, T, H) at positions (B, T): channels i and i + H/2 are a pair.
fn rotary(model: &Model, x: &Tensor, positions: &Tensor) -> Tensor {
    let (heads, t, h) = (x.shape[1], x.shape[2], x.shape[3]);
    let furthest = positions.at.iter().cloned().fold(0.0, f32::max);
    let (theta, factor) = frequencies(model, furthest as f64 + 1.0);
    let mut y = x.at.clone();
    for (n, row) in y.chunks_mut(h).enumerate() {
        let p = positions.at[n / (heads * t) * t + n % t] as f64;
        for i in 0..h / 2 {
            let (a, b) = (row[i] as f64, row[i + h / 2] as f64);
            let (cos, sin) = ((p * theta[i]).cos() * factor, (p * theta[i]).sin() * factor);
            row[i] = (a * cos - b * sin) as f32;
            row[i + h / 2] = (b * cos + a * sin) as f32;
        }
    }
    Tensor { shape: x.shape.clone(), at: y }
}

fn linear(model: &Model, name: &str, x: &Tensor) -> Tensor {
    let (w, bias) = (&model.weights[&format!("{name}.weight")], model.weights.get(&format!("{name}.bias")));
    let (out, width) = (w.shape[0], w.shape[1]);
    let product = |row: &[f32], o: usize| -> f32 {
        let sum: f64 = row.iter().zip(&w.at[o * width..]).map(|(&a, &b)| a as f64 * b as f64).sum();
        (sum + bias.map_or(0.0, |b| b.at[o] as f64)) as f32
    };
    let at = x.at.chunks(width).flat_map(|row| (0..out).map(move |o| (row, o))).map(|(row, o)| product(row, o)).collect();
    let mut shape = x.shape.clone();
    *shape.last_mut().unwrap() = out;
    Tensor { shape, at }
}

fn phi(kind: &str, z: f64) -> Option<f64> {
    match kind {
        "silu" => Some(z / (1.0 + (-z).exp())),
        "relu" => Some(z.max(0.0)),
        "gelu_pytorch_tanh" => Some(z / 2.0 * (1.0 + ((2.0 / PI).sqrt() * (z + 0.044715 * z.powi(3))).tanh())),
        _ => None, // gelu needs erf, which Rust's standard library has not
    }
}

fn swiglu(model: &Model, layer: &str, x: &Tensor) -> Option<Tensor> {
    let (at, act) = (format!("model.layers.{layer}.mlp."), model.text("hidden_act"));
    phi(act, 0.0)?;
    let (gate, up) = (linear(model, &format!("{at}gate_proj"), x), linear(model, &format!("{at}up_proj"), x));
    let grown = gate.at.iter().zip(&up.at).map(|(&z, &u)| (phi(act, z as f64).unwrap() * u as f64) as f32).collect();
    Some(linear(model, &format!("{at}down_proj"), &Tensor { shape: gate.shape, at: grown }))
}

// ---- the questions: lines of words ----

fn load(path: &str) -> Tensor {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let start = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let header = String::from_utf8_lossy(&bytes[10..start]).to_string();
    let shape = header.split("'shape': (").nth(1).unwrap().split(')').next().unwrap();
    let at = if header.contains("<i8") {
        bytes[start..].chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
    } else {
        bytes[start..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    Tensor { shape: shape.split(',').filter_map(|word| word.trim().parse().ok()).collect(), at }
}

fn save(folder: &str, name: &str, x: &Tensor) {
    fs::create_dir_all(folder).expect(folder);
    let shape: String = x.shape.iter().map(|n| format!("{n}, ")).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:117}\n").bytes());
    bytes.extend(x.at.iter().flat_map(|v| v.to_le_bytes()));
    fs::write(Path::new(folder).join(name), bytes).expect(name);
}

fn answer(request: &str, folder: &str) {
    let mut model = Model::default();
    for line in fs::read_to_string(request).unwrap_or_else(|error| panic!("{request}: {error}")).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[0] {
            "model" => model = Model { dtype: words[1].to_string(), ..Model::default() },
            "config" => drop(model.config.insert(words[1].to_string(), words[2].to_string())),
            "weight" if model.dtype == "float32" => drop(model.weights.insert(words[1].to_string(), load(words[2]))),
            "call" if model.dtype == "float32" => {
                let given: HashMap<&str, &str> = words[2..].iter().filter_map(|word| word.split_once('=')).collect();
                match words[1] {
                    "rms_norm" => save(folder, given["answer"], &rms_norm(&model, given["where"], &load(given["x"]))),
                    "rotary" => {
                        let positions = load(given["positions"]);
                        save(folder, given["answer_q"], &rotary(&model, &load(given["q"]), &positions));
                        save(folder, given["answer_k"], &rotary(&model, &load(given["k"]), &positions));
                    }
                    "swiglu" => {
                        if let Some(y) = swiglu(&model, given["layer"], &load(given["x"])) {
                            save(folder, given["answer"], &y);
                        }
                    }
                    _ => {} // what is not answered is not judged
                }
            }
            _ => {}
        }
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if arguments.len() > 2 {
        return answer(&arguments[1], &arguments[2]);
    }
    for line in io::stdin().lines() {
        let line = line.unwrap();
        let (request, folder) = line.split_once(' ').expect("a request and a folder");
        answer(request, folder);
        println!("done");
    }
}
