# SPDX-License-Identifier: Apache-2.0
"""Adapters to package managers: one thin file each."""
