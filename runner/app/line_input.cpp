#include "app/line_input.h"

#include <dlfcn.h>
#include <locale.h>
#if __has_include(<xlocale.h>)
#include <xlocale.h>  // where macOS declares what POSIX has in locale.h
#endif
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string_view>
#include <type_traits>

#include "system/output.h"

namespace runner {
namespace {

constexpr const char* kPrompt = "> ";
constexpr const char* kPromptWithin = ". ";

// libedit's interface as its histedit.h has had it since 1994: what is used of it.
enum EditOption { kElPrompt = 0, kElEditor = 2, kElSignal = 3, kElHist = 10 };
enum HistoryOperation { kHSetSize = 1, kHEnter = 10, kHSetUnique = 20 };
struct HistoryEvent {
  int number;
  const char* text;
};

struct Libedit {
  void* (*init)(const char* program, std::FILE* in, std::FILE* out, std::FILE* errors);
  void (*end)(void* editor);
  int (*set)(void* editor, int option, ...);
  int (*source)(void* editor, const char* file);
  const char* (*gets)(void* editor, int* count);
  void* (*history_init)();
  void (*history_end)(void* history);
  int (*history)(void* history, HistoryEvent* event, int operation, ...);
};

#ifdef __APPLE__ // a name alone would be looked for in the current folder too
constexpr std::array kLibeditNames = {"/usr/lib/libedit.3.dylib"};
#else
constexpr std::array kLibeditNames = {"libedit.so.2", "libedit.so.0"};
#endif

// Nothing where the system has no libedit. The library stays loaded.
std::optional<Libedit> load_libedit() {
  void* library = nullptr;
  for (const char* name : kLibeditNames) {
    if (!library) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (!library) return std::nullopt;
  Libedit functions;
  const auto find = [library](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    return function != nullptr;
  };
  if (find(functions.init, "el_init") && find(functions.end, "el_end") &&
      find(functions.set, "el_set") && find(functions.source, "el_source") &&
      find(functions.gets, "el_gets") && find(functions.history_init, "history_init") &&
      find(functions.history_end, "history_end") && find(functions.history, "history")) {
    return functions;
  }
  return std::nullopt;
}

// Characters are UTF-8 here whatever the user's locale; null where the system has no such locale.
locale_t utf8_locale() {
  for (const char* name : {"C.UTF-8", "en_US.UTF-8"}) {
    if (locale_t found = newlocale(LC_CTYPE_MASK, name, nullptr)) return found;
  }
  return nullptr;
}

// This thread's locale as long as the object lives.
struct Locale {
  explicit Locale(locale_t wanted) : before(uselocale(wanted)) {}
  ~Locale() { uselocale(before); }
  locale_t before;
};

bool can_edit() {
  const char* terminal = std::getenv("TERM");
  return terminal && *terminal && std::string_view(terminal) != "dumb" && isatty(STDERR_FILENO);
}

}  // namespace

class LineInput::Editor {
 public:
  static std::unique_ptr<Editor> open() {
    const auto libedit = load_libedit();
    if (!libedit) return nullptr;
    const locale_t locale = utf8_locale();
    if (!locale) return nullptr;
    std::unique_ptr<Editor> editor(new Editor(*libedit, locale));
    return editor->editor_ && editor->history_ ? std::move(editor) : nullptr;
  }

  ~Editor() {
    if (editor_) libedit_.end(editor_);
    if (history_) libedit_.history_end(history_);
    freelocale(locale_);
  }

  std::optional<std::string> read(bool within) {
    const Locale locale(locale_);
    libedit_.set(editor_, kElPrompt, within ? prompt_within : prompt);
    int count = 0;
    const char* line = libedit_.gets(editor_, &count);
    if (!line || count <= 0) return std::nullopt;
    std::string text(line);
    if (text.ends_with('\n')) text.pop_back();
    HistoryEvent event;
    if (!text.empty()) libedit_.history(history_, &event, kHEnter, text.c_str());
    return text;
  }

 private:
  Editor(const Libedit& libedit, locale_t locale) : libedit_(libedit), locale_(locale) {
    const Locale inside(locale_);
    editor_ = libedit_.init("runner", stdin, stderr, stderr);
    history_ = libedit_.history_init();
    if (!editor_ || !history_) return;
    HistoryEvent event;
    libedit_.history(history_, &event, kHSetSize, 1000);
    libedit_.history(history_, &event, kHSetUnique, 1);
    libedit_.set(editor_, kElEditor, "emacs");
    libedit_.set(editor_, kElSignal, 1);  // the terminal is as it was while a signal acts
    libedit_.set(editor_, kElHist, libedit_.history, history_);
    libedit_.source(editor_, nullptr);  // the user's ~/.editrc
  }

  static const char* prompt(void*) { return kPrompt; }
  static const char* prompt_within(void*) { return kPromptWithin; }

  Libedit libedit_;
  locale_t locale_;
  void* editor_ = nullptr;
  void* history_ = nullptr;
};

LineInput::LineInput() : is_terminal_(isatty(STDIN_FILENO) != 0) {
  if (is_terminal_ && can_edit()) editor_ = Editor::open();
}

LineInput::~LineInput() = default;

std::optional<std::string> LineInput::read(bool within) {
  if (editor_) return editor_->read(within);
  if (is_terminal_) write_text(stderr, within ? kPromptWithin : kPrompt);
  std::string line;
  if (!std::getline(std::cin, line)) return std::nullopt;
  return line;
}

}  // namespace runner
