// Sessions of one model through anything that can be done with them, in any order: what each says must be,
// to the bit, what a session of the same tokens says, and saves, that was alone from the start.
//   session_fuzz MODEL SEQUENCES [SEED] [--cache-dtype TYPE] [--threads N]
//   session_fuzz --isas      prints the instruction sets that LOWBIT_ISA can force here
// A sequence is 12 steps, in up to 5 sessions: forwards of some of them together, rewinding, forking,
// dropping, saving and restoring. Prints what was done, and stops at the first difference.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iostream>
#include <list>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kernels/isa.h"
#include "model/cache_types.h"
#include "model/saved_session.h"
#include "model/session.h"
#include "system/error.h"

namespace {

using namespace runner;
using Ids = std::vector<int32_t>;

constexpr int64_t kSessions = 5, kSteps = 12;
constexpr int32_t kTokens = 3;  // few, so that sessions meet in their beginnings

uint64_t hash_of(std::span<const float> row) {
  uint64_t hash = 14695981039346656037u;
  for (const float value : row) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    hash = (hash ^ bits) * 1099511628211u;
  }
  return hash;
}

// What a session says that reads some tokens by itself: the hash of its last logits.
class Alone {
 public:
  Alone(Model& model, const StateChoice& choice) : model_(model), state_(model.make_state(choice)) {}

  uint64_t after(const Ids& tokens) {
    const auto found = known_.find(tokens);
    if (found != known_.end()) return found->second;
    Session session(model_, state_);
    Ids read;
    session.append(tokens, [&](std::span<const float> row) {
      read.push_back(tokens[read.size()]);
      known_[read] = hash_of(row);
    });
    return known_.at(tokens);
  }

  // The same session, saved.
  std::string saved(const Ids& tokens) {
    Session session(model_, state_);
    if (!tokens.empty()) session.append(tokens, [](std::span<const float>) {});
    return save_session(session);
  }

 private:
  Model& model_;
  std::shared_ptr<OwnedState> state_;
  std::map<Ids, uint64_t> known_;
};

struct Counts {
  int64_t forwards = 0, segments = 0, rewinds = 0, forks = 0, drops = 0, saves = 0, restores = 0;
};

class Fuzz {
 public:
  Fuzz(Model& model, StateChoice choice, uint64_t seed)
      : model_(model), random_(seed), alone_(model, one(choice)) {
    choice.sessions = kSessions;
    state_ = model.make_state(choice);
  }

  void sequence() {
    sessions_.clear();
    for (int64_t step = 0; step < kSteps; ++step) {
      if (sessions_.empty()) sessions_.emplace_back(model_, state_);
      take_step(below(10));
    }
  }

  const Counts& counts() const { return counts_; }

 private:
  static StateChoice one(StateChoice choice) {
    choice.sessions = 1;
    return choice;
  }

  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  std::list<Session>::iterator any() { return std::next(sessions_.begin(), below(std::ssize(sessions_))); }
  bool room() const { return std::ssize(sessions_) < kSessions; }

  void take_step(int64_t what) {
    if (what == 0 && below(4) == 0) {
      fail_forward();
    } else if (what == 0 && room()) {
      sessions_.emplace_back(model_, state_);
    } else if (what == 1 && room()) {
      sessions_.push_back(any()->fork());
      ++counts_.forks;
    } else if (what == 2) {
      sessions_.erase(any());
      ++counts_.drops;
    } else if (what == 3) {
      Session& session = *any();
      session.rewind(below(session.position() + 1));
      ++counts_.rewinds;
    } else if (what == 4) {
      save();
    } else if (what == 5 && room() && !saved_.empty()) {
      sessions_.push_back(load_session(model_, state_, saved_));
      ++counts_.restores;
    } else {
      run_together();
    }
  }

  // Nothing is saved of other sessions, or of what a session has forgotten.
  void save() {
    const Session& session = *any();
    saved_ = save_session(session);
    if (saved_ != alone_.saved({session.tokens().begin(), session.tokens().end()})) {
      throw Error("a session at position " + std::to_string(session.position()) +
                  " does not save what it would alone");
    }
    ++counts_.saves;
  }

  // A forward that was begun and failed: nothing has changed.
  void fail_forward() {
    Session& session = *any();
    const int64_t left = session.context_length() - session.position();
    if (left == 0) return;
    const int64_t segment[] = {session.id(), 1 + below(std::min<int64_t>(left, 40))};
    (*state_)->begin(segment);
    (*state_)->abandon();
  }

  void run_together() {
    const Metadata& m = model_.metadata();
    std::deque<Ids> tokens;
    std::vector<Turn> turns;
    int64_t left = std::min(m.max_chunk, m.max_rows);
    for (Session& session : sessions_) {
      const int64_t most = below(4) == 0 ? 20 : 3;
      const int64_t n =
          std::min({below(most + 1), session.context_length() - session.position(), left});
      if (n == 0 || std::ssize(turns) == m.max_segments) continue;
      Ids& ids = tokens.emplace_back();
      for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(below(kTokens)));
      turns.push_back({&session, ids});
      left -= n;
    }
    if (turns.empty()) return;
    std::vector<Ids> before;
    for (const Turn& turn : turns) {
      before.emplace_back(turn.session->tokens().begin(), turn.session->tokens().end());
    }
    const auto vocabulary = static_cast<size_t>(m.vocab_size);
    std::vector<float> room;
    const auto logits = append_for_rows(turns, room);
    std::vector<uint64_t> found;
    for (size_t at = 0; at < logits.size(); at += vocabulary) {
      found.push_back(hash_of(logits.subspan(at, vocabulary)));
    }
    size_t row = 0;
    for (size_t i = 0; i < turns.size(); ++i) {
      for (const int32_t token : turns[i].tokens) {
        before[i].push_back(token);
        if (alone_.after(before[i]) != found[row++]) {
          throw Error("a session at position " + std::to_string(before[i].size()) +
                      " does not say what it would alone");
        }
      }
    }
    ++counts_.forwards;
    counts_.segments += std::ssize(turns);
  }

  Model& model_;
  std::mt19937_64 random_;
  Alone alone_;
  std::shared_ptr<OwnedState> state_;
  std::list<Session> sessions_;
  std::string saved_;
  Counts counts_;
};

}  // namespace

int main(int argc, char** argv) try {
  std::vector<std::string> words(argv + 1, argv + argc);
  StateChoice choice;
  LoadOptions options{.threads = 2};
  const auto take = [&](const std::string& flag) {
    const auto at = std::ranges::find(words, flag);
    if (words.end() - at < 2) return std::string();
    const std::string value = at[1];
    words.erase(at, at + 2);
    return value;
  };
  if (words == std::vector<std::string>{"--isas"}) {
    for (const lowbit::Isa* isa : lowbit::all_isas()) {
      if (isa->supported()) std::printf("%s\n", isa->name);
    }
    return 0;
  }
  if (const auto type = take("--cache-dtype"); !type.empty()) choice.cache_type = cache_type_of(type);
  if (const auto threads = take("--threads"); !threads.empty()) options.threads = std::stoi(threads);
  if (words.size() < 2) throw Error("usage: session_fuzz MODEL SEQUENCES [SEED]");
  const uint64_t seed = words.size() > 2 ? std::stoull(words[2]) : 1;
  const int64_t sequences = std::stoll(words[1]);
  const auto model = load_model(words[0], options);
  Fuzz fuzz(*model, choice, seed);
  for (int64_t i = 0; i < sequences; ++i) {
    try {
      fuzz.sequence();
    } catch (const std::exception& error) {
      throw Error("sequence " + std::to_string(i) + " of seed " + std::to_string(seed) + ": " +
                  error.what());
    }
  }
  const Counts& c = fuzz.counts();
  std::printf("%ld sequences on %s: %ld forwards of %ld segments, %ld rewound, %ld forks, %ld dropped, "
              "%ld saved, %ld restored\n",
              static_cast<long>(sequences), model->isa().c_str(), static_cast<long>(c.forwards),
              static_cast<long>(c.segments), static_cast<long>(c.rewinds), static_cast<long>(c.forks),
              static_cast<long>(c.drops), static_cast<long>(c.saves), static_cast<long>(c.restores));
  return 0;
} catch (const std::exception& error) {
  std::cerr << "session_fuzz: " << error.what() << "\n";
  return 1;
}
