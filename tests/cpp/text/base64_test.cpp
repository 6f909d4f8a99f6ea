#include "text/base64.h"

#include "system/error.h"
#include "tests/cpp/check.h"

using namespace runner;

TEST(base64_decodes_or_complains) {
  CHECK_EQ(decode_base64(""), "");
  CHECK_EQ(decode_base64("Zg=="), "f");
  CHECK_EQ(decode_base64("Zm8="), "fo");
  CHECK_EQ(decode_base64("Zm9vYmFy"), "foobar");
  CHECK_EQ(decode_base64("/+8="), "\xff\xef");
  for (const char* bad : {"Z", "Zm9", "Zm9v!A==", "====", "Zg=a", "Zm\n9"}) {
    CHECK_THROWS(Error, decode_base64(bad), "base64");
  }
}

CHECK_MAIN()
