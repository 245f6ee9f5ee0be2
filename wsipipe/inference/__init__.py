"""The network at work: replicas on devices, tiles in, labels out; torch is used here.

wsipipe sends no telemetry. OpenVINO would, to Google Analytics, each time it is imported, and NNCF each time it
quantises: both by the package ``openvino_telemetry``, which comes with them. Whatever imports either of them imports
this first. With None in place of that package, both behave as if it were not installed, and the user's home stays as
it is.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
