# SPDX-License-Identifier: Apache-2.0
"""The steps of the design's flow. Each is one public function, and none imports another."""
