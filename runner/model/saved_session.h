#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "model/session.h"

namespace runner {

// All of a session as bytes: its tokens, and what the model remembers of them, with the model's weights,
// its layers and the cache's type by name. Any runner of the same model can go on from them. Throws
// StateError for a model on stock operators.
std::string save_session(const Session& session);

// The session of such bytes, in `state`. Throws Error where they are cut off, damaged, or of another
// model or cache type than the state's; StateError where the state has no session or context left.
Session load_session(Model& model, std::shared_ptr<OwnedState> state, std::string_view bytes);

}  // namespace runner
