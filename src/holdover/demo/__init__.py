# SPDX-License-Identifier: Apache-2.0
"""A throwaway Debian with real packages, real guests in it, and the story told on them."""
