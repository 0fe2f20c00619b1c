//! Fixed-size values as they travel in instruction data and events (Borsh's form for these types).

use crate::{
    Key,
    error::{Error, Result},
};

/// A value of fixed size, little-endian.
pub trait Value: Sized {
    const SIZE: usize;
    /// The type's name in the IDL, as JSON.
    const IDL: &'static str;
    /// `bytes` has exactly `SIZE` bytes.
    fn read(bytes: &[u8]) -> Result<Self>;
    /// `out` has exactly `SIZE` bytes.
    fn write(&self, out: &mut [u8]);
}

macro_rules! number {
    ($($type:ident),+) => {$(
        impl Value for $type {
            const SIZE: usize = size_of::<$type>();
            const IDL: &'static str = concat!("\"", stringify!($type), "\"");
            #[inline(always)]
            fn read(bytes: &[u8]) -> Result<Self> {
                Ok($type::from_le_bytes(bytes.try_into().map_err(|_| Error::BadArguments)?))
            }
            #[inline(always)]
            fn write(&self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
        }
    )+};
}
number!(u8, u16, u64, i64);

impl Value for bool {
    const SIZE: usize = 1;
    const IDL: &'static str = "\"bool\"";
    #[inline(always)]
    fn read(bytes: &[u8]) -> Result<Self> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Error::BadArguments),
        }
    }
    #[inline(always)]
    fn write(&self, out: &mut [u8]) {
        out[0] = *self as u8;
    }
}

impl Value for Key {
    const SIZE: usize = 32;
    const IDL: &'static str = "\"publicKey\"";
    #[inline(always)]
    fn read(bytes: &[u8]) -> Result<Self> {
        bytes.try_into().map_err(|_| Error::BadArguments)
    }
    #[inline(always)]
    fn write(&self, out: &mut [u8]) {
        out.copy_from_slice(self);
    }
}

/// A digest: 32 bytes that are no address, so that tools do not print them as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Value for Digest {
    const SIZE: usize = 32;
    const IDL: &'static str = r#"{"array": ["u8", 32]}"#;
    #[inline(always)]
    fn read(bytes: &[u8]) -> Result<Self> {
        Ok(Self(Key::read(bytes)?))
    }
    #[inline(always)]
    fn write(&self, out: &mut [u8]) {
        self.0.write(out);
    }
}

/// A named value, as the IDL lists it.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    pub name: &'static str,
    /// JSON.
    pub idl: &'static str,
}

/// Declares a record of [`Value`]s one after another, with `read`, `write` and its field table.
macro_rules! record {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis struct $name { $($(#[$fmeta])* pub $field: $type,)* }

        impl $name {
            pub const SIZE: usize = 0 $(+ <$type as $crate::layout::Value>::SIZE)*;
            pub const FIELDS: &'static [$crate::layout::FieldSpec] = &[$(
                $crate::layout::FieldSpec {
                    name: stringify!($field),
                    idl: <$type as $crate::layout::Value>::IDL,
                },
            )*];

            /// Takes exactly `SIZE` bytes.
            #[inline(always)]
            pub fn read(bytes: &[u8]) -> $crate::error::Result<Self> {
                if bytes.len() != Self::SIZE {
                    return Err($crate::error::Error::BadArguments);
                }
                let rest = bytes;
                $(
                    let ($field, rest) = rest
                        .split_at_checked(<$type as $crate::layout::Value>::SIZE)
                        .ok_or($crate::error::Error::BadArguments)?;
                    let $field = <$type as $crate::layout::Value>::read($field)?;
                )*
                let _ = rest;
                Ok(Self { $($field,)* })
            }

            /// Fills exactly `SIZE` bytes.
            #[inline(always)]
            pub fn write(&self, out: &mut [u8; Self::SIZE]) {
                let rest: &mut [u8] = out;
                $(
                    let (here, rest) = rest.split_at_mut(<$type as $crate::layout::Value>::SIZE);
                    $crate::layout::Value::write(&self.$field, here);
                )*
                let _ = rest;
            }
        }
    };
}
pub(crate) use record;
