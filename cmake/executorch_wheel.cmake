# ExecuTorch for another system than this machine's: its wheel of the version that the exporter has, unpacked
# in .deps/. Sets EXECUTORCH_ROOT.
if(NOT CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
  message(FATAL_ERROR "No wheel of ExecuTorch is known for ${CMAKE_SYSTEM_NAME} on ${CMAKE_SYSTEM_PROCESSOR}. "
                      "Build without et_run (-DET=OFF)")
elseif(CMAKE_SYSTEM_NAME STREQUAL "Darwin")
  set(system macos-arm64)
  set(platform macosx_14_0_arm64)
else()
  set(system aarch64)
  set(platform manylinux_2_28_aarch64)
endif()
execute_process(
  COMMAND "${Python3_EXECUTABLE}" -c "import importlib.metadata as m; print(m.version('executorch'))"
  OUTPUT_VARIABLE version RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
if(failed)
  message(FATAL_ERROR "${Python3_EXECUTABLE} has no executorch. Run scripts/setup.sh")
endif()
set(folder "${CMAKE_SOURCE_DIR}/.deps/executorch-${version}-${system}")
set(EXECUTORCH_ROOT "${folder}/executorch")
if(NOT EXISTS "${EXECUTORCH_ROOT}")
  message(STATUS "Fetching ExecuTorch ${version} for ${system}")
  set(part "${folder}.part")
  file(REMOVE_RECURSE "${part}")
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -m pip download --quiet --disable-pip-version-check --no-deps
      --only-binary=:all: --platform ${platform} --dest "${part}" executorch==${version}
    RESULT_VARIABLE failed ERROR_VARIABLE words)
  file(GLOB wheel "${part}/*.whl")
  if(failed OR NOT wheel)
    file(REMOVE_RECURSE "${part}")
    message(FATAL_ERROR "pip cannot fetch ExecuTorch ${version} for ${system}: ${words}\n"
                        "Build without et_run (-DET=OFF), or unpack its wheel in ${folder}")
  endif()
  file(ARCHIVE_EXTRACT INPUT "${wheel}" DESTINATION "${part}")
  file(REMOVE "${wheel}")
  file(REMOVE_RECURSE "${folder}")
  file(RENAME "${part}" "${folder}")
endif()
