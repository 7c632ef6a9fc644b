//! Bytes become objects: lists are split while they stream, watch streams are cut into events, single objects are
//! looked at for their metadata; and back again: recalled objects become lists and watch events. Pure.
