//! One agent follows another, under load, after crashes, and after what somebody else did to the pins.
