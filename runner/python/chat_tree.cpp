#include "python/chat_tree.h"

#include <string>
#include <vector>

#include "system/error.h"
#include "text/chat_template.h"
#include "text/template_evaluator.h"

namespace py = pybind11;

namespace runner::python {
namespace {

class ChatTree {
 public:
  explicit ChatTree(const std::string& nodes)
      : tree_(templates::Tree::from_value(templates::value_from_json(nodes, kMarkup))),
        met_(tree_.nodes().size()) {}

  std::string render(const std::string& variables, const std::string& date) {
    templates::Inputs inputs;
    const templates::Value given = templates::value_from_json(variables, kContent);
    if (!given.is_dict()) throw Error("the variables are no JSON object");
    for (const auto& [name, value] : given.dict().items) inputs.variables.emplace_back(name.bytes(), value);
    const auto day = day_of(date);
    if (!day) throw Error("'" + date + "' is no day; give one as 2024-07-26");
    inputs.now = *day;
    inputs.met = &met_;
    return templates::evaluate(tree_, inputs).text;
  }

  py::bytes met() const { return {reinterpret_cast<const char*>(met_.data()), met_.size()}; }

 private:
  templates::Tree tree_;
  std::vector<uint8_t> met_;
};

}  // namespace

void define_chat_tree(py::module_& m) {
  py::class_<ChatTree>(m, "ChatTree", py::module_local(), "A chat template's tree, of its nodes in JSON.")
      .def(py::init<const std::string&>(), py::arg("nodes"))
      .def("render", &ChatTree::render, py::arg("variables"), py::arg("date"),
           "What the template writes of a JSON object of variables on a day, 2024-07-26. Raises ValueError "
           "where it refuses them or fails.")
      .def_property_readonly("met", &ChatTree::met,
                             "A byte for each node: 1 where a condition was true or a loop had a turn, 2 where "
                             "it was false or had none, in any render() so far.");
}

}  // namespace runner::python
