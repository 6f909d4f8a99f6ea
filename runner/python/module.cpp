// The runner's core in Python. Two extension modules are made of this source: `_et` with the model
// of ExecuTorch behind load_model(), `_aoti` with that of AOTInductor. exporter/runners/native.py finds them.

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "decode/speed.h"
#include "model/cache_types.h"
#include "python/chat_tree.h"
#include "python/model.h"
#include "python/python_model.h"
#include "python/raw_tokenizer.h"
#include "python/sampling.h"
#include "system/cpu_count.h"
#include "system/error.h"
#include "system/peak_memory.h"
#include "text/printable.h"

namespace py = pybind11;

namespace runner::python {
namespace {

const char* word_for(StopReason reason) {
  switch (reason) {
    case StopReason::stop_token: return "stop_token";
    case StopReason::stop_string: return "stop_string";
    case StopReason::steps: return "steps";
    case StopReason::context: return "context";
    case StopReason::interrupted: return "interrupted";
  }
  return "";
}

std::shared_ptr<BoundModel> load(const std::string& path, int threads, bool metadata_only,
                                 std::optional<int64_t> context_length,
                                 const std::optional<std::string>& cache_dtype, int64_t sessions) {
  if (threads < 0 || threads > kMaxThreads) {
    throw Error("threads is " + std::to_string(threads) + "; give 1 to " +
                std::to_string(kMaxThreads) + ", or 0 for this machine's cores");
  }
  LoadChoice choice{threads, metadata_only, {.context_length = context_length, .sessions = sessions}};
  if (cache_dtype) {
    choice.state.cache_type = cache_type_of(*cache_dtype);
    if (!choice.state.cache_type) {
      throw Error("cache_dtype is '" + *cache_dtype + "'; give one of " + cache_type_names());
    }
  }
  const py::gil_scoped_release released;
  auto model = load_model(path, {.threads = threads, .metadata_only = metadata_only});
  return std::make_shared<BoundModel>(std::move(model), std::string(backend_name()), choice);
}

std::shared_ptr<BoundModel> from_callable(const StringMap& metadata, const py::function& forward,
                                          int threads) {
  const auto library =
      backend_name() == kAotiBackend ? lowbit::Library::aoti : lowbit::Library::executorch;
  return std::make_shared<BoundModel>(
      std::make_unique<PythonModel>(metadata, forward, threads, library),
      std::string(kPythonBackend), LoadChoice{});
}

double bandwidth(int threads, double seconds) {
  const py::gil_scoped_release released;
  return read_bandwidth(thread_count(threads), seconds);
}

void define_tokenizer(py::module_& m) {
  using Self = const Tokenizer&;
  py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(
      m, "Tokenizer", py::module_local(),
      "An artifact's tokenizer, the runners' own (runner/text/tokenizer.h).")
      .def(
          "encode",
          [](Self t, const std::string& text, bool add_bos, bool parse_special) {
            return t.encode(text, add_bos,
                            parse_special ? Tokenizer::Special::parse : Tokenizer::Special::plain);
          },
          py::arg("text"), py::arg("add_bos") = false, py::arg("parse_special") = true,
          "The ids of `text`, a str or UTF-8 bytes; with `parse_special` the names of special tokens "
          "in it are those tokens.")
      .def(
          "decode", [](Self t, const Ids& ids) { return t.decode(ids); }, py::arg("ids"),
          "The text of `ids` without special tokens, as a str; what is no whole UTF-8 is U+FFFD. "
          "Raises ValueError for an id that is not from 0 to n_pieces - 1.")
      .def_property_readonly("n_pieces", &Tokenizer::n_pieces)
      .def_property_readonly("bos_id", &Tokenizer::bos_id, "-1: none")
      .def_property_readonly("eos_id", &Tokenizer::eos_id, "-1: none")
      .def_property_readonly("add_bos", &Tokenizer::add_bos,
                             "Whether a text begins with bos by default.")
      .def_property_readonly(
          "table", [](Self t) { return py::bytes(std::string(t.table())); },
          "The canonical table (docs/artifact.md).");
}

void define_generated(py::module_& m) {
  const auto count = [](auto member) {
    return [member](const Reply& reply) { return reply.counts.*member; };
  };
  py::class_<Reply>(m, "Generated", py::module_local(), "What Model.generate returns.")
      .def_readonly("text", &Reply::text, "The continuation, without special tokens.")
      .def_readonly("ids", &Reply::tokens,
                    "Its tokens; a stop token is not among them, those of a stop string are.")
      .def_property_readonly(
          "reason", [](const Reply& reply) { return word_for(reply.counts.reason); },
          "Why it ended: stop_token, stop_string, steps or context.")
      .def_property_readonly("prompt_tokens", count(&GenerateResult::prompt_tokens))
      .def_property_readonly("prefill_seconds", count(&GenerateResult::prefill_seconds))
      .def_property_readonly("decode_forwards", count(&GenerateResult::decode_forwards),
                             "Forwards of one token; decode_seconds are theirs.")
      .def_property_readonly("decode_seconds", count(&GenerateResult::decode_seconds));
}

// Pairs of (role, text) as the objects that they stand for; others as they are.
py::list as_objects(const py::iterable& messages) {
  py::list objects;
  for (const py::handle message : messages) {
    if (py::isinstance<py::dict>(message)) {
      objects.append(message);
      continue;
    }
    const auto [role, content] = message.cast<std::pair<std::string, std::string>>();
    objects.append(py::dict(py::arg("role") = role, py::arg("content") = content));
  }
  return objects;
}

Ids chat_prompt(BoundModel& model, const py::iterable& messages, bool add_generation_prompt,
                const std::string& date, const py::kwargs& variables) {
  const py::object dumps = py::module_::import("json").attr("dumps");
  return model.chat_prompt(dumps(as_objects(messages)).cast<std::string>(), add_generation_prompt,
                           dumps(variables).cast<std::string>(), date);
}

Ids chat_turn(BoundModel& model, const py::iterable& messages, std::optional<bool> think, const std::string& date,
              const std::optional<std::string>& tools, const std::string& tools_path) {
  const std::string list = py::module_::import("json").attr("dumps")(as_objects(messages)).cast<std::string>();
  return model.chat_turn(
      list, {.think = think, .date = day_or_none(date), .tools = tools, .tools_path = tools_path});
}

void define_model(py::module_& m) {
  py::class_<BoundModel, std::shared_ptr<BoundModel>>(m, "Model", py::module_local(),
                         "A model behind the interface of runner/model/model.h. Calls of one library's "
                         "models run one after the other.")
      .def_property_readonly(
          "metadata", [](const BoundModel& model) {
            StringMap map = model.metadata().raw;
            map.erase(keys::kTokenizer);
            return map;
          },
          "Every key of docs/artifact.md as it was written, but the tokenizer's table.")
      .def_property_readonly("threads", &BoundModel::threads, "0 where only metadata was read.")
      .def_property_readonly("context_length", &BoundModel::context_length, "Most tokens of a session.")
      .def_property_readonly("isa", &BoundModel::isa,
                             "Instruction set of the kernels; '' where only metadata was read.")
      .def_property_readonly("backend", &BoundModel::backend, "executorch, aoti or python.")
      .def_property_readonly("tokenizer", &BoundModel::tokenizer)
      .def("chat_prompt", &chat_prompt, py::arg("messages"), py::arg("add_generation_prompt") = true,
           py::arg("date") = "",
           "The ids of a conversation: messages of (role, text), or objects as chat templates take them. "
           "Further keywords are what the template may know, such as tools, documents or "
           "enable_thinking; `date`, 2024-07-26, is the day instead of the clock's. Raises ValueError "
           "when the model has no chat template, or it refuses the conversation.")
      .def("chat_turn", &chat_turn, py::arg("messages"), py::arg("think") = std::nullopt, py::arg("date") = "",
           py::arg("tools") = std::nullopt, py::arg("tools_path") = "",
           "The ids of a conversation and of what makes the model answer. `think`: with thoughts or without; "
           "`date`, 2024-07-26, is the day instead of the clock's; `tools` is a JSON list of objects, and "
           "`tools_path` the file that held it, for errors. Raises ValueError, with the runners' flag, for what "
           "the template does not take.")
      .def("forward", &BoundModel::forward, py::arg("tokens"), py::arg("start_pos"),
           py::arg("rows"),
           "One chunk: `tokens` (1 to max_chunk ids) at the positions from `start_pos` on, which is "
           "at most where the last call ended. Returns float32 [len(rows), vocab], the logits of the "
           "chunk's positions `rows` (1 to max_rows indices). Raises ValueError for anything else.")
      .def("score", &BoundModel::score, py::arg("tokens"), py::arg("first"),
           py::arg("progress") = nullptr,
           "Log-probabilities (natural logarithm) of tokens[i] given tokens[:i], for i from `first` "
           "(at least 1) to the end: float32 [len(tokens) - first]. Runs from position 0 in chunks, "
           "whose logits alone are held; progress(done, of) is called before each. Raises ValueError "
           "when the tokens do not fit context or vocabulary, or logits are not numbers.")
      .def("open_session", &BoundModel::open_session,
           "A new Session of this model's state, which has as many as it was loaded for; one of them "
           "is the model's own as soon as forward, score, generate or a timing is called. Raises "
           "ValueError when none is left.")
      .def("restore_session", &BoundModel::restore_session, py::arg("saved"),
           "The Session that Session.save() gave. Raises ValueError where that is damaged, or of another "
           "model or cache type.")
      .def("forward_together", &BoundModel::forward_together, py::arg("turns"),
           py::arg("last_only") = false,
           "One forward of `turns`, pairs of a Session and the ids that it reads next. Returns float32 "
           "[ids, vocab] of each, or [1, vocab] after its last, to the bit what it would be alone.")
      .def(
          "generate",
          [](BoundModel& model, const Ids& prompt, int64_t steps, std::optional<uint64_t> seed,
             const std::optional<Ids>& stop_ids, const BoundModel::OnText& on_text,
             const BoundModel::OnToken& on_token, const py::kwargs& sampling) {
            return std::move(model.generate(prompt, steps, 1, settings_from(sampling), seed, stop_ids,
                                            on_text, on_token)[0]);
          },
          py::arg("prompt_ids"), py::arg("steps") = 0, py::arg("seed") = py::none(),
          py::arg("stop_ids") = py::none(), py::arg("on_text") = nullptr,
          py::arg("on_token") = nullptr,
          "Continue `prompt_ids` from an empty context, at most `steps` tokens (0: to the context's "
          "end). seed None: a random one; stop_ids None: the artifact's. on_text(str) gets whole "
          "characters as they come, on_token(id) each token. Further keywords are sampling settings, "
          "the model's own recommendation where None or absent: temperature (0: greedy), top_k, "
          "top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty, "
          "no_repeat_ngram_size, logit_bias {id or (id, ...): bias}, bad_words_ids, "
          "begin_suppress_tokens, stop_strings. Returns a Generated. Raises ValueError when the "
          "prompt does not fit context or vocabulary or a setting is out of range, TypeError for an "
          "unknown setting.")
      .def(
          "generate_samples",
          [](BoundModel& model, const Ids& prompt, int64_t num_samples, int64_t steps,
             std::optional<uint64_t> seed, const std::optional<Ids>& stop_ids,
             const BoundModel::OnText& on_text, const BoundModel::OnToken& on_token,
             const py::kwargs& sampling) {
            return model.generate(prompt, steps, num_samples, settings_from(sampling), seed, stop_ids,
                                  on_text, on_token);
          },
          py::arg("prompt_ids"), py::arg("num_samples"), py::arg("steps") = 0,
          py::arg("seed") = py::none(), py::arg("stop_ids") = py::none(),
          py::arg("on_text") = nullptr, py::arg("on_token") = nullptr,
          "As generate, `num_samples` continuations that are decoded together, the first of `seed`, each "
          "further one of the next: a list of Generated. on_text and on_token hear of the first. Raises "
          "ValueError when the model was loaded for fewer sessions.")
      .def("time_prefill", &BoundModel::time_prefill, py::arg("n_tokens"), py::arg("depth") = 0,
           "Seconds that a prompt of `n_tokens` takes after `depth` others, which are not timed.")
      .def("time_decode", &BoundModel::time_decode, py::arg("n_tokens"), py::arg("depth") = 0,
           "Seconds that `n_tokens` forwards of one token take after a prompt of `depth`.");
}

void define_session(py::module_& m) {
  py::class_<BoundSession>(m, "Session", py::module_local(),
                           "A conversation's tokens and what the model remembers of them.")
      .def_property_readonly("tokens", &BoundSession::tokens)
      .def_property_readonly(
          "position", &BoundSession::position, "The number of its tokens.")
      .def("rewind", &BoundSession::rewind, py::arg("position"),
           "Forget the tokens from `position` on. Raises ValueError where there are fewer.")
      .def("fork", &BoundSession::fork,
           "A Session of the same tokens; memory is shared until one of both goes on.")
      .def("save", &BoundSession::save, "All of it as bytes, for Model.restore_session.")
      .def("drop", &BoundSession::drop, "Give its place to another one.");
}

void define(py::module_& m) {
  // Beside runner::Error and lowbit::StateError, which hold what the user must read, pybind11's own: std::runtime_error
  // is RuntimeError, std::bad_alloc MemoryError.
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      py::set_error(PyExc_ValueError, printable(error.what()).c_str());
    } catch (const lowbit::StateError& error) {
      py::set_error(PyExc_ValueError, printable(error.what()).c_str());
    }
  });
  define_tokenizer(m);
  define_raw_tokenizer(m);
  define_generated(m);
  define_model(m);
  define_session(m);
  define_chat_tree(m);
  define_sampling(m);
  m.def("load_model", &load, py::arg("path"), py::arg("threads") = 0,
        py::arg("metadata_only") = false, py::arg("context_length") = py::none(),
        py::arg("cache_dtype") = py::none(), py::arg("sessions") = 1);
  m.def("make_python_model", &from_callable, py::arg("metadata"), py::arg("forward"),
        py::arg("threads") = 0);
  m.def("read_bandwidth", &bandwidth, py::arg("threads") = 0, py::arg("seconds") = 1.0);
  m.def("peak_rss_bytes", &peak_rss_bytes);
}

}  // namespace
}  // namespace runner::python

// A library has the one that its file is named after.
PYBIND11_MODULE(_et, m) { runner::python::define(m); }
PYBIND11_MODULE(_aoti, m) { runner::python::define(m); }
