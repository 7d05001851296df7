# SPDX-License-Identifier: Apache-2.0
"""Keeps late loading working in processes that outlive the package they were started from."""

__version__ = "0.1.0"
