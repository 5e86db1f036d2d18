// Norms, rotary embeddings and feed-forwards of a Llama in Go, which answer the float32 questions of
// `llama-reference export DIR`; the standard library only. In DIR:
//
//	go build -o llama llama.go
//	./llama questions/rms_norm/hard.float32.txt answers/rms_norm/hard.float32
//
// Without arguments it reads such pairs from standard input, a line each, and says "done" after each.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

type tensor struct {
	shape []int
	at    []float32 // whole numbers too: they are small
}

type model struct {
	dtype   string
	config  map[string]string
	weights map[string]tensor
}

func (m model) number(name string) float64 {
	if word, found := m.config[name]; found {
		n, _ := strconv.ParseFloat(word, 64)
		return n
	}
	return 1
}

// ---- the mathematics: in double precision, rounded once ----

func rmsNorm(m model, where string, x tensor) tensor {
	gain, d := m.weights[where+".weight"].at, x.shape[len(x.shape)-1]
	y := make([]float32, len(x.at))
	for row := 0; row < len(y); row += d {
		sum := 0.0
		for _, v := range x.at[row : row+d] {
			sum += float64(v) * float64(v)
		}
		scale := 1 / math.Sqrt(sum/float64(d)+m.number("rms_norm_eps"))
		for i := 0; i < d; i++ {
			y[row+i] = float32(float64(gain[i]) * float64(x.at[row+i]) * scale)
		}
	}
	return tensor{x.shape, y}
}

func within(share float64) float64 { return math.Min(math.Max(share, 0), 1) }

// Of every pair of channels the angle from one position to the next, and a factor on cosine and sine.
func frequencies(m model, length float64) ([]float64, float64) {
	kind, h, factor := m.config["rope.rope_type"], m.number("head_dim"), m.number("rope.factor")
	longest, original := m.number("max_position_embeddings"), m.number("rope.original_max_position_embeddings")
	base, theta := m.number("rope.rope_theta"), make([]float64, int(h)/2)
	if kind == "dynamic" {
		base *= math.Pow(factor*math.Max(length, longest)/longest-factor+1, h/(h-2))
	}
	channel := func(turns float64) float64 {
		return h * math.Log(original/(turns*2*math.Pi)) / (2 * math.Log(base))
	}
	first, last := math.Max(math.Floor(channel(32)), 0), math.Min(math.Ceil(channel(1)), h-1)
	divisors := strings.Split(m.config["rope.short_factor"], ",")
	if length > original {
		divisors = strings.Split(m.config["rope.long_factor"], ",")
	}
	for i := range theta {
		theta[i] = math.Pow(base, -2*float64(i)/h)
		switch kind {
		case "linear":
			theta[i] /= factor
		case "longrope":
			divisor, _ := strconv.ParseFloat(divisors[i], 64)
			theta[i] /= divisor
		case "llama3":
			low, high := m.number("rope.low_freq_factor"), m.number("rope.high_freq_factor")
			kept := within((original*theta[i]/(2*math.Pi) - low) / (high - low))
			theta[i] *= kept + (1-kept)/factor
		case "yarn":
			stretched := within((float64(i) - first) / math.Max(last-first, 1e-3))
			theta[i] *= 1 - stretched + stretched/factor
		}
	}
	switch kind {
	case "yarn":
		return theta, 0.1*math.Log(factor) + 1
	case "longrope":
		return theta, math.Sqrt(1 + math.Log(factor)/math.Log(original))
	}
	return theta, 1
}

// x (B, heads, T, H) at positions (B, T): channels i and i + H/2 are a pair.
func rotary(m model, x, positions tensor) tensor {
	heads, t, h, furthest := x.shape[1], x.shape[2], x.shape[3], 0.0
	for _, p := range positions.at {
		furthest = math.Max(furthest, float64(p))
	}
	theta, factor := frequencies(m, furthest+1)
	y := make([]float32, len(x.at))
	for row := 0; row < len(y)/h; row++ {
		p := float64(positions.at[row/(heads*t)*t+row%t])
		for i, angle := range theta {
			a, b := float64(x.at[row*h+i]), float64(x.at[row*h+i+h/2])
			cos, sin := math.Cos(p*angle)*factor, math.Sin(p*angle)*factor
			y[row*h+i] = float32(a*cos - b*sin)
			y[row*h+i+h/2] = float32(b*cos + a*sin)
		}
	}
	return tensor{x.shape, y}
}

func linear(m model, name string, x tensor) tensor {
	w, bias := m.weights[name+".weight"], m.weights[name+".bias"].at
	out, width := w.shape[0], w.shape[1]
	y := make([]float32, len(x.at)/width*out)
	for n := range y {
		row, o, sum := n/out, n%out, 0.0
		for i := 0; i < width; i++ {
			sum += float64(x.at[row*width+i]) * float64(w.at[o*width+i])
		}
		if bias != nil {
			sum += float64(bias[o])
		}
		y[n] = float32(sum)
	}
	shape := append([]int{}, x.shape...)
	shape[len(shape)-1] = out
	return tensor{shape, y}
}

var phi = map[string]func(float64) float64{
	"silu": func(z float64) float64 { return z / (1 + math.Exp(-z)) },
	"relu": func(z float64) float64 { return math.Max(z, 0) },
	"gelu": func(z float64) float64 { return z * math.Erfc(-z/math.Sqrt2) / 2 },
	"gelu_pytorch_tanh": func(z float64) float64 {
		return z / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(z+0.044715*z*z*z)))
	},
}

func swiglu(m model, layer string, x tensor) tensor {
	at := "model.layers." + layer + ".mlp."
	gate, up := linear(m, at+"gate_proj", x), linear(m, at+"up_proj", x)
	for i, z := range gate.at {
		gate.at[i] = float32(phi[m.config["hidden_act"]](float64(z)) * float64(up.at[i]))
	}
	return linear(m, at+"down_proj", gate)
}

// ---- the questions: lines of words ----

var shapeOf = regexp.MustCompile(`'shape': \(([^)]*)\)`)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func load(path string) tensor {
	data := must(os.ReadFile(path))
	start := 10 + int(binary.LittleEndian.Uint16(data[8:]))
	x := tensor{}
	for _, word := range strings.Split(shapeOf.FindStringSubmatch(string(data[:start]))[1], ",") {
		if n, err := strconv.Atoi(strings.TrimSpace(word)); err == nil {
			x.shape = append(x.shape, n)
		}
	}
	if strings.Contains(string(data[:start]), "<i8") {
		for at := start; at < len(data); at += 8 {
			x.at = append(x.at, float32(int64(binary.LittleEndian.Uint64(data[at:]))))
		}
	} else {
		for at := start; at < len(data); at += 4 {
			x.at = append(x.at, math.Float32frombits(binary.LittleEndian.Uint32(data[at:])))
		}
	}
	return x
}

func save(folder, name string, x tensor) {
	shape := ""
	for _, n := range x.shape {
		shape += fmt.Sprintf("%d, ", n)
	}
	header := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape)
	out := bytes.NewBufferString("\x93NUMPY\x01\x00\x76\x00" + fmt.Sprintf("%-117s\n", header))
	binary.Write(out, binary.LittleEndian, x.at)
	must(0, os.MkdirAll(folder, 0o777))
	must(0, os.WriteFile(filepath.Join(folder, name), out.Bytes(), 0o666))
}

func answer(request, folder string) {
	m := model{}
	for _, line := range strings.Split(strings.TrimSpace(string(must(os.ReadFile(request)))), "\n") {
		words, given := strings.Split(line, " "), map[string]string{}
		for _, word := range words {
			name, value, _ := strings.Cut(word, "=")
			given[name] = value
		}
		switch {
		case words[0] == "model":
			m = model{words[1], map[string]string{}, map[string]tensor{}}
		case words[0] == "config":
			m.config[words[1]] = words[2]
		case m.dtype != "float32": // and what is not answered is not judged
		case words[0] == "weight":
			m.weights[words[1]] = load(words[2])
		case words[1] == "rms_norm":
			save(folder, given["answer"], rmsNorm(m, given["where"], load(given["x"])))
		case words[1] == "swiglu":
			save(folder, given["answer"], swiglu(m, given["layer"], load(given["x"])))
		case words[1] == "rotary":
			positions := load(given["positions"])
			save(folder, given["answer_q"], rotary(m, load(given["q"]), positions))
			save(folder, given["answer_k"], rotary(m, load(given["k"]), positions))
		}
	}
}

func main() {
	if len(os.Args) > 2 {
		answer(os.Args[1], os.Args[2])
		return
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); fmt.Println("done") {
		words := strings.Fields(lines.Text())
		answer(words[0], words[1])
	}
}
