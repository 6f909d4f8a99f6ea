#pragma once

namespace lowbit {

struct ArmFeatures {
  bool dotprod, i8mm;
};
ArmFeatures arm_features();  // of this CPU; all false on other architectures

}  // namespace lowbit
