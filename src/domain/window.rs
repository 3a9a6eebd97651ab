//! Windows of whole UTC hours (R14), and which window, trigger and basis a request gets.
